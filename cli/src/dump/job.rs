//! One job: one table or shard, or a range of its blocks, copied by a worker under the node's snapshot.
//!
//! A snapshot holds no lock: a table that was truncated, rewritten or replaced after it reads as empty, and one
//! whose column was dropped reads without it, both without an error. So, with the table locked:
//!
//! | what is compared | sees |
//! | --- | --- |
//! | the oid in the snapshot, and what the name leads to now | dropped and made again, renamed, swapped |
//! | `relfilenode` in the snapshot, and the file now | truncated, rewritten |
//! | `pg_attribute` in the snapshot, and of a second session now | altered without a rewrite |
//! | `pg_dist_partition` now, for a table that was no shard | distributed: its COPY would read shards as they are now |
//!
//! The lock keeps the first three equal until the COPY has ended; the fourth is looked at again then. A shard that was
//! moved is no difference: its old place is exact until Citus drops it, which the lock finds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use remote::{CopyError, RemoteError};

use super::args::{Compress, Format};
use super::error::DumpError;
use super::file::{DataWriter, at};
use super::manifest::DataFile;
use super::session::{NodeSession, Reach};
use crate::failure::Failure;
use crate::rows::only_row;

/// What is to be copied.
#[derive(Clone, Debug)]
pub struct Job {
    /// The position of its node.
    pub node: usize,
    /// Schema and name on that node.
    pub schema: String,
    pub name: String,
    /// The `WHERE` that an extension gives its own table.
    pub condition: Option<String>,
    /// Whether it can be read by ranges of its blocks.
    pub is_heap: bool,
    /// How much it is, about: what is largest comes first.
    pub size: u64,
    /// What the manifest says of it; rows, bytes and columns come later.
    pub file: DataFile,
}

impl Job {
    /// Its name as SQL takes it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// Its name in messages: the table's, and the shard's where that is another.
    pub fn described(&self) -> String {
        match self.file.shard {
            Some(shard) => format!("{}.{} (shard {shard})", self.file.schema, self.file.table),
            None => format!("{}.{}", self.file.schema, self.file.table),
        }
    }
}

/// A name as SQL takes it, whatever is in it.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it, whatever is in it.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

/// How a job ended that has not failed for good.
#[derive(Debug)]
pub enum JobEnd {
    /// Its file is whole.
    Done(Box<DataFile>),
    /// Somebody else has the lock.
    Busy,
    /// The worker's session is gone; another may do it.
    Lost(RemoteError),
}

/// How the lock is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Locking {
    /// At once or not at all.
    NoWait,
    /// Waited for so long.
    Within(Duration),
}

/// A worker's two sessions with a node.
pub struct Pair {
    /// Imports the snapshot, for one job at a time.
    copier: NodeSession,
    /// Sees the present.
    present: NodeSession,
}

/// The columns, in a form that two sessions can compare, and what COPY is given.
const COLUMNS: &str =
    "(SELECT string_agg(concat_ws(':', attnum, attname, atttypid, atttypmod, attcollation,
          attgenerated, attisdropped, attlen, attalign), ',' ORDER BY attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) AS columns";

/// Types in whose binary form there is an OID of this cluster, and types without one.
const TEXT_ONLY: &str = "(WITH RECURSIVE t(oid) AS (
       SELECT atttypid FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
       UNION
       SELECT x.oid FROM t JOIN pg_type y ON y.oid = t.oid
         LEFT JOIN pg_range r ON r.rngtypid = y.oid OR r.rngmultitypid = y.oid
        CROSS JOIN LATERAL (
              SELECT y.typelem WHERE y.typelem <> 0 UNION ALL SELECT y.typbasetype WHERE y.typbasetype <> 0
              UNION ALL SELECT r.rngsubtype WHERE r.rngsubtype IS NOT NULL
              UNION ALL SELECT atttypid FROM pg_attribute
                         WHERE attrelid = y.typrelid AND y.typtype = 'c' AND attnum > 0 AND NOT attisdropped
              ) AS x(oid))
     SELECT bool_or(y.typsend = 0 OR y.typname ~ '^reg' AND y.typnamespace = 'pg_catalog'::regnamespace)
       FROM t JOIN pg_type y ON y.oid = t.oid) AS text_only";

impl Pair {
    /// Connects both.
    pub fn open(reach: &Reach, halt: &Arc<AtomicBool>) -> Result<Pair, Failure> {
        Ok(Pair {
            copier: NodeSession::open(reach, halt)?,
            present: NodeSession::open(reach, halt)?,
        })
    }

    /// Whether both can be used.
    pub fn is_alive(&self) -> bool {
        self.copier.is_alive() && self.present.is_alive()
    }

    /// Does a job.
    pub fn run(
        &mut self,
        job: &Job,
        snapshot: &str,
        locking: Locking,
        directory: &Path,
        compress: Compress,
    ) -> Result<JobEnd, Failure> {
        let end = self.try_run(job, snapshot, locking, directory, compress);
        // Ends the transaction, and its lock, however far it came. The session is not used again if that fails.
        if self.copier.is_alive() {
            let _ = self.copier.ask("end", "ROLLBACK");
        }
        match end {
            Err(Failure::Remote(error @ RemoteError::Stopped { .. })) => Err(error.into()),
            Err(Failure::Remote(
                error @ (RemoteError::Lost { .. }
                | RemoteError::Closed { .. }
                | RemoteError::Timeout { .. }),
            )) => Ok(JobEnd::Lost(error)),
            Err(Failure::Remote(error)) => {
                Err(DumpError::Table { table: job.described(), error }.into())
            }
            other => other,
        }
    }

    fn try_run(
        &mut self,
        job: &Job,
        snapshot: &str,
        locking: Locking,
        directory: &Path,
        compress: Compress,
    ) -> Result<JobEnd, Failure> {
        let (set, nowait, time) = match locking {
            Locking::NoWait => (String::new(), " NOWAIT", super::session::ANSWER_TIME),
            Locking::Within(time) => (
                format!("SET LOCAL lock_timeout = {};", time.as_millis()),
                "",
                time.saturating_add(super::session::ANSWER_TIME),
            ),
        };
        let binary = job.file.format == Format::Binary;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {snapshot};
             {set} LOCK TABLE ONLY {table} IN ACCESS SHARE MODE{nowait};
             SELECT c.oid, c.relfilenode = pg_relation_filenode(c.oid) AS same_file,
                    c.oid = to_regclass({name})::oid AS same_name, {COLUMNS},
                    (SELECT json_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                        AND attgenerated = '') AS list, {text_only}
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = {schema} AND c.relname = {relation}",
            snapshot = literal(snapshot),
            table = job.quoted(),
            name = literal(&job.quoted()),
            schema = literal(&job.schema),
            relation = literal(&job.name),
            text_only = if binary { TEXT_ONLY } else { "false AS text_only" },
        );
        let reply = match self.copier.ask_within("lock and look at the table", &begin, time) {
            Ok(reply) => reply,
            Err(error) => return self.not_locked(job, locking, error),
        };
        let changed = |what| {
            let node = reply.node.to_string();
            Failure::from(DumpError::Changed { table: job.described(), node, what })
        };
        if reply.last_set()?.rows.is_empty() {
            return Err(changed("the snapshot has no table of that name, and now there is one"));
        }
        let row = only_row(&reply)?;
        if !row.is_true("same_name")? {
            return Err(changed("another table has its name now"));
        }
        if !row.is_true("same_file")? {
            return Err(changed("it was truncated or rewritten"));
        }
        let oid: u32 = row.get("oid")?;
        let now = format!("SELECT c.oid, {COLUMNS} FROM pg_class c WHERE c.oid = {oid}");
        let now = self.present.ask("look at the table's columns", &now)?;
        if now.last_set()?.rows.is_empty()
            || only_row(&now)?.maybe::<String>("columns")? != row.maybe("columns")?
        {
            return Err(changed("its columns were altered"));
        }
        self.is_still_local(job, oid, &changed)?;
        let mut file = job.file.clone();
        file.columns = match row.maybe::<String>("list")? {
            None => Vec::new(),
            Some(list) => serde_json::from_str(&list)
                .map_err(|_| reply.unexpected("columns that are no list"))?,
        };
        if binary && row.is_true("text_only")? {
            file.format = Format::Text;
        }
        let path = directory.join(&file.path);
        let mut writer = DataWriter::create(&path, compress)?;
        let end = self.copier.copy(&copy_sql(job, &file), &mut |row| writer.take(row));
        let end = end.map_err(|error| match error {
            CopyError::Remote(error) => Failure::Remote(error),
            CopyError::Sink(error) => at(&path)(error).into(),
        })?;
        // It may have been distributed since, which no reader's lock holds up; and stays so, or has another oid.
        self.is_still_local(job, oid, &changed)?;
        self.copier.ask("end", "COMMIT")?;
        let written = writer.finish().map_err(at(&path))?;
        file.rows = end.rows;
        file.bytes = written.bytes;
        file.stored_bytes = written.stored_bytes;
        file.sha256 = written.sha256;
        Ok(JobEnd::Done(Box::new(file)))
    }

    /// A table that Citus knows it reads from its shards, and as they are now.
    fn is_still_local(
        &mut self,
        job: &Job,
        oid: u32,
        changed: &dyn Fn(&'static str) -> Failure,
    ) -> Result<(), Failure> {
        if job.file.shard.is_some() {
            return Ok(());
        }
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid::oid = {oid})"
        );
        match self.present.ask("ask whether it is distributed", &sql)?.single_value()? == "t" {
            true => Err(changed("it was distributed")),
            false => Ok(()),
        }
    }

    /// What an error of the first question means.
    fn not_locked(
        &self,
        job: &Job,
        locking: Locking,
        error: RemoteError,
    ) -> Result<JobEnd, Failure> {
        let node = error.node().to_string();
        let table = job.described();
        match (error.sqlstate(), locking) {
            // lock_not_available
            (Some("55P03"), Locking::NoWait) => Ok(JobEnd::Busy),
            (Some("55P03"), Locking::Within(waited)) => {
                Err(DumpError::Locked { table, node, waited }.into())
            }
            // undefined_table, invalid_schema_name
            (Some("42P01" | "3F000"), _) => {
                Err(DumpError::Changed { table, node, what: "it was dropped or renamed" }.into())
            }
            _ => Err(error.into()),
        }
    }
}

/// The COPY of a job. ONLY its own rows, never those of tables below it.
fn copy_sql(job: &Job, file: &DataFile) -> String {
    let table = job.quoted();
    let columns = file.columns.join(", ");
    let format = match file.format {
        Format::Text => "",
        Format::Binary => " WITH (FORMAT binary)",
    };
    let condition = match (file.blocks, &job.condition) {
        (Some((first, Some(end))), _) => {
            format!(" WHERE ctid >= '({first},0)' AND ctid < '({end},0)'")
        }
        (Some((first, None)), _) => format!(" WHERE ctid >= '({first},0)'"),
        (None, Some(condition)) => format!(" {condition}"),
        // COPY of the table itself is a little quicker.
        (None, None) if !file.columns.is_empty() => {
            return format!("COPY {table} ({columns}) TO STDOUT{format}");
        }
        (None, None) => String::new(),
    };
    format!("COPY (SELECT {columns} FROM ONLY {table}{condition}) TO STDOUT{format}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted_whatever_is_in_them() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
