//! What the catalogs say, as the snapshot shows them.

use std::collections::{HashMap, HashSet};

use remote::{RemoteError, Reply};
use tracing::debug;

use super::super::error::DumpError;
use super::super::export::Keeper;
use super::super::job::{literal, quote};
use super::super::manifest::{
    Colocation, Columnar, Function, Kind, Name, Sequence, Setting, Table, Tenant,
};
use super::super::session::NodeSession;
use super::{BLOCK, Plan};
use crate::failure::Failure;
use crate::rows::{Row, rows};

/// Extensions whose tables are this program's, or Citus', own business.
const OWN_EXTENSIONS: &str = "('citus', 'citus_columnar', 'pg_dist', 'citus_fence')";

/// How many sequences are read, and so locked, at a time.
const SEQUENCES: usize = 100;

/// User tables that no extension owns.
const USERS_TABLE: &str = "c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')";

/// How a table is found by name, here and on a node: quoted by SQL, and without the schema where that is public, as
/// `shard_name` writes it. Compared as it is, so that no two tables are taken for one.
const KEY: &str = "CASE n.nspname WHEN 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END
             || quote_ident(c.relname) AS key";

/// A table of one node.
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: String,
    pub access_method: Option<String>,
    pub size: u64,
}

/// All values of a column's kind.
fn collect<T>(
    reply: &Reply,
    make: impl Fn(Row<'_>) -> Result<T, RemoteError>,
) -> Result<Vec<T>, RemoteError> {
    rows(reply)?.map(make).collect()
}

/// The tables that Citus knows, and the coordinator's own; their positions by oid, and their keys by position.
pub fn tables(
    coordinator: &mut Keeper,
    plan: &mut Plan,
) -> Result<(HashMap<u32, usize>, Vec<String>), Failure> {
    let sql = format!(
        "SELECT c.oid, {KEY}, n.nspname, c.relname, c.relkind, c.relispartition, a.amname, p.partmethod, p.repmodel,
                p.colocationid, p.autoconverted,
                CASE WHEN p.partkey IS NOT NULL THEN column_to_column_name(p.logicalrelid, p.partkey) END AS col
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_am a ON a.oid = c.relam
           LEFT JOIN pg_dist_partition p ON p.logicalrelid::oid = c.oid
          WHERE p.logicalrelid IS NOT NULL OR c.relkind IN ('r', 'p') AND {USERS_TABLE}
          ORDER BY n.nspname, c.relname"
    );
    let reply = coordinator.ask("list tables", &sql)?;
    let (mut by_oid, mut keys) = (HashMap::new(), Vec::new());
    for row in rows(&reply)? {
        let (schema, name): (String, String) = (row.get("nspname")?, row.get("relname")?);
        let method: Option<String> = row.maybe("partmethod")?;
        let model: Option<String> = row.maybe("repmodel")?;
        let group: i64 = row.maybe("colocationid")?.unwrap_or(0);
        let kind = match (method.as_deref(), model.as_deref()) {
            (None, _) => Kind::Local,
            (Some("h"), _) => Kind::Hash,
            (Some("n"), Some("t")) => Kind::Reference,
            (Some("n"), _) if group != 0 => Kind::SingleShard,
            (Some("n"), _) => Kind::CitusLocal,
            (Some(method), _) => {
                let (table, method) = (format!("{schema}.{name}"), method.to_owned());
                return Err(DumpError::Method { table, method }.into());
            }
        };
        let relkind: String = row.get("relkind")?;
        if relkind == "f" {
            plan.not_dumped.push(format!("rows of the foreign table {schema}.{name}"));
            continue;
        }
        by_oid.insert(row.get("oid")?, plan.tables.len());
        keys.push(row.get("key")?);
        plan.tables.push(Table {
            schema,
            name,
            kind,
            column: row.maybe("col")?,
            colocation: Some(group).filter(|group| *group != 0),
            shards: 0,
            autoconverted: row.is_true("autoconverted")?,
            partitioned: relkind == "p",
            is_partition: row.is_true("relispartition")?,
            access_method: row.maybe("amname")?,
            columnar: None,
        });
    }
    Ok((by_oid, keys))
}

/// Colocation groups, tenants and functions.
pub fn metadata(coordinator: &mut Keeper, is_citus: bool, plan: &mut Plan) -> Result<(), Failure> {
    let reply = coordinator.ask(
        "list colocation groups",
        "SELECT colocationid, shardcount, replicationfactor,
                CASE WHEN distributioncolumntype <> 0 THEN format_type(distributioncolumntype, NULL) END AS type
           FROM pg_dist_colocation ORDER BY 1",
    )?;
    plan.colocation = collect(&reply, |row| {
        Ok(Colocation {
            id: row.get("colocationid")?,
            shard_count: row.get("shardcount")?,
            replication_factor: row.get("replicationfactor")?,
            column_type: row.maybe("type")?,
        })
    })?;
    if !is_citus {
        return Ok(());
    }
    let reply = coordinator
        .ask("look for tenants", "SELECT to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL")?;
    if reply.single_value()? == "t" {
        let reply = coordinator.ask(
            "list tenants",
            "SELECT n.nspname, s.colocationid FROM pg_dist_schema s
               JOIN pg_namespace n ON n.oid = s.schemaid::oid ORDER BY 1",
        )?;
        plan.tenants = collect(&reply, |row| {
            Ok(Tenant { schema: row.get("nspname")?, colocation: row.get("colocationid")? })
        })?;
    }
    // Citus' own are in every cluster.
    let reply = coordinator.ask(
        "list rebalance strategies",
        "SELECT name FROM pg_dist_rebalance_strategy WHERE name NOT IN ('by_shard_count', 'by_disk_size') ORDER BY 1",
    )?;
    for row in rows(&reply)? {
        plan.not_dumped.push(format!("rebalance strategy {}", row.get::<String>("name")?));
    }
    let reply = coordinator.ask(
        "list distributed functions",
        "SELECT o.objid::regprocedure::text AS signature, (SELECT nspname FROM pg_namespace n WHERE n.oid = p.pronamespace) AS schema,
                o.distribution_argument_index, o.colocationid, to_jsonb(o) ->> 'force_delegation' AS force_delegation
           FROM pg_dist_object o JOIN pg_proc p ON p.oid = o.objid
          WHERE o.classid = 'pg_proc'::regclass
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'e')
          ORDER BY 1",
    )?;
    plan.functions = collect(&reply, |row| {
        Ok(Function {
            signature: row.get("signature")?,
            schema: row.get("schema")?,
            argument: row.maybe("distribution_argument_index")?,
            force_delegation: row.maybe::<String>("force_delegation")?.map(|value| value == "true"),
            colocation: row.maybe("colocationid")?,
        })
    })?;
    Ok(())
}

/// How columnar tables are written: pg_dump has none of it.
pub fn columnar(coordinator: &mut Keeper, plan: &mut Plan) -> Result<(), Failure> {
    let sql = "SELECT to_regclass('columnar.options') IS NOT NULL";
    if coordinator.ask("look for columnar tables", sql)?.single_value()? != "t" {
        return Ok(());
    }
    let reply = coordinator.ask(
        "list columnar tables",
        "SELECT n.nspname, c.relname, o.compression, o.compression_level, o.stripe_row_limit, o.chunk_group_row_limit
           FROM columnar.options o JOIN pg_class c ON c.oid = o.relation::oid
           JOIN pg_namespace n ON n.oid = c.relnamespace",
    )?;
    for row in rows(&reply)? {
        let (schema, name): (String, String) = (row.get("nspname")?, row.get("relname")?);
        let found = plan.tables.iter_mut().find(|one| one.schema == schema && one.name == name);
        if let Some(table) = found {
            table.columnar = Some(Columnar {
                compression: row.get("compression")?,
                compression_level: row.get("compression_level")?,
                stripe_row_limit: row.get("stripe_row_limit")?,
                chunk_group_row_limit: row.get("chunk_group_row_limit")?,
            });
        }
    }
    Ok(())
}

/// Materialized views that have rows. One that reads another comes after it, through any number of views.
pub fn materialized_views(coordinator: &mut Keeper) -> Result<Vec<Name>, Failure> {
    let reply = coordinator.ask(
        "list materialized views",
        "WITH RECURSIVE reads (view, other) AS (
           SELECT DISTINCT r.ev_class, d.refobjid FROM pg_rewrite r
             JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
             JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')),
         depth (view, level) AS (
           SELECT oid, 0 FROM pg_class WHERE relkind IN ('v', 'm')
           UNION SELECT reads.view, level + 1 FROM depth JOIN reads ON reads.other = depth.view)
         SELECT n.nspname, c.relname FROM depth JOIN pg_class c ON c.oid = depth.view
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'm' AND c.relispopulated
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                               AND d.deptype = 'e')
          GROUP BY 1, 2 ORDER BY max(level), 1, 2",
    )?;
    Ok(collect(&reply, |row| Ok(Name { schema: row.get("nspname")?, name: row.get("relname")? }))?)
}

/// A placement of a shard.
pub struct Shard {
    pub id: i64,
    pub relation: u32,
    /// Its name on the node, as [`KEY`] has it.
    pub name: String,
    pub min: Option<String>,
    pub max: Option<String>,
    pub group: Option<i32>,
}

/// All placements of all shards, the lowest group first.
pub fn shards(coordinator: &mut Keeper, is_citus: bool) -> Result<Vec<Shard>, Failure> {
    // How Citus shortens a long name is its own business. It leaves out the schema public, as search_path says
    // nothing of it.
    let name = match is_citus {
        true => "shard_name(s.logicalrelid, s.shardid)",
        false => {
            "CASE n.nspname WHEN 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END
             || quote_ident(c.relname || '_' || s.shardid)"
        }
    };
    let sql = format!(
        "SELECT s.shardid, s.logicalrelid::oid AS relation, {name} AS name, s.shardminvalue, s.shardmaxvalue,
                p.groupid
           FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.logicalrelid::oid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_dist_placement p ON p.shardid = s.shardid AND p.shardstate = 1
          ORDER BY s.shardid, p.groupid"
    );
    let reply = coordinator.ask("list shards", &sql)?;
    Ok(collect(&reply, |row| {
        Ok(Shard {
            id: row.get("shardid")?,
            relation: row.get("relation")?,
            name: row.get("name")?,
            min: row.maybe("shardminvalue")?,
            max: row.maybe("shardmaxvalue")?,
            group: row.maybe("groupid")?,
        })
    })?)
}

/// The tables of a node, by name.
pub fn relations_of(
    keeper: &mut Keeper,
    present: &mut dyn FnMut(&Keeper) -> Result<NodeSession, Failure>,
) -> Result<HashMap<String, Relation>, Failure> {
    let sql = format!(
        "SELECT c.oid, {KEY}, n.nspname, c.relname, c.relkind, a.amname, greatest(c.relpages, 0)::bigint AS pages
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
          WHERE c.relkind IN ('r', 'p') AND {USERS_TABLE}"
    );
    let reply = keeper.ask("list a node's tables", &sql)?;
    let mut found = collect(&reply, |row| {
        let relation = Relation {
            oid: row.get("oid")?,
            schema: row.get("nspname")?,
            name: row.get("relname")?,
            kind: row.get("relkind")?,
            access_method: row.maybe("amname")?,
            size: row.get::<u64>("pages")?.saturating_mul(BLOCK),
        };
        Ok((row.get::<String>("key")?, relation))
    })?;
    // How large they are now. Asking takes a lock for a moment, which somebody else may have: then an estimate
    // is good enough, as it only decides what comes first, and where a table is split.
    let mut now = present(keeper)?;
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '1s';
         SELECT c.oid, pg_relation_size(c.oid) AS size FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND {USERS_TABLE}"
    );
    match now.ask("ask how large the tables are", &sql) {
        Ok(reply) => {
            let mut sizes = HashMap::new();
            for row in rows(&reply)? {
                sizes.insert(row.get::<u32>("oid")?, row.maybe::<u64>("size")?.unwrap_or(0));
            }
            for (_, relation) in &mut found {
                relation.size = sizes.get(&relation.oid).copied().unwrap_or(relation.size);
            }
        }
        Err(error @ RemoteError::Query { .. }) => debug!("{error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(found.into_iter().collect())
}

/// Tables of extensions that have rows of users, each with its condition.
pub fn configuration(coordinator: &mut Keeper) -> Result<Vec<(Relation, String)>, Failure> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, x.condition FROM pg_extension e
          CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS x(oid, condition)
           JOIN pg_class c ON c.oid = x.oid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND e.extname NOT IN {OWN_EXTENSIONS} ORDER BY 2, 3"
    );
    let reply = coordinator.ask("list tables of extensions", &sql)?;
    Ok(collect(&reply, |row| {
        let relation = Relation {
            oid: row.get("oid")?,
            schema: row.get("nspname")?,
            name: row.get("relname")?,
            kind: "r".to_owned(),
            access_method: Some("heap".to_owned()),
            size: 0,
        };
        Ok((relation, row.maybe("condition")?.unwrap_or_default()))
    })?)
}

/// A node's sequences, not yet with their values. Those of this program's own tables are its own business.
pub fn sequences_of(keeper: &mut Keeper) -> Result<Vec<Sequence>, Failure> {
    let group = keeper.node.groupid;
    let sql = format!(
        "SELECT n.nspname, c.relname, format_type(s.seqtypid, NULL) AS type
           FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname !~ '^pg_'
            AND NOT EXISTS (
                SELECT FROM pg_depend d LEFT JOIN pg_depend o ON d.deptype IN ('a', 'i') AND o.classid = 'pg_class'::regclass
                        AND o.objid = d.refobjid AND o.deptype = 'e'
                  JOIN pg_extension e ON e.oid = coalesce(o.refobjid, d.refobjid)
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i', 'e')
                   AND e.extname IN {OWN_EXTENSIONS})
          ORDER BY 1, 2"
    );
    let reply = keeper.ask("list sequences", &sql)?;
    Ok(collect(&reply, |row| {
        Ok(Sequence {
            groupid: group,
            schema: row.get("nspname")?,
            name: row.get("relname")?,
            data_type: row.get("type")?,
            last_value: None,
            is_called: true,
        })
    })?)
}

/// Reads their values. A snapshot has none of them: they are read after it was taken, so no row in the dump has a higher
/// one. In the present, some at a time, so that few are locked; and from each itself, which whoever may not read it is
/// told: `pg_sequences` shows him one that was never used.
pub fn read_sequences(
    node: &mut NodeSession,
    sequences: &mut [&mut Sequence],
) -> Result<(), Failure> {
    for some in sequences.chunks_mut(SEQUENCES) {
        let each: Vec<String> = some
            .iter()
            .enumerate()
            .map(|(number, sequence)| {
                let name = format!("{}.{}", quote(&sequence.schema), quote(&sequence.name));
                format!(
                    "SELECT {number} AS number, q.last_value, q.is_called, q.last_value <> s.seqstart AS is_set
                       FROM {name} q, pg_sequence s WHERE s.seqrelid = {}::regclass",
                    literal(&name)
                )
            })
            .collect();
        let reply = node.ask("read sequences", &each.join(" UNION ALL "))?;
        for row in rows(&reply)? {
            let is_called = row.is_true("is_called")?;
            if is_called || row.is_true("is_set")? {
                let sequence = &mut some[row.get::<usize>("number")?];
                (sequence.last_value, sequence.is_called) = (row.maybe("last_value")?, is_called);
            }
        }
    }
    Ok(())
}

/// Refuses names that are no UTF-8, which only a database without an encoding can have: a manifest could not say them, and two
/// that differ would be taken for one.
pub fn names(coordinator: &mut Keeper) -> Result<(), Failure> {
    let reply = coordinator.ask(
        "look at names",
        "SELECT format('schema %s', nspname) AS what FROM pg_namespace
         UNION ALL
         SELECT format('%s %s.%s', CASE relkind WHEN 'S' THEN 'sequence' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
                       relnamespace::regnamespace, relname)
           FROM pg_class WHERE relkind IN ('r', 'p', 'S', 'm')
         UNION ALL
         SELECT format('column %s of %s', attname, attrelid::regclass) FROM pg_attribute
          WHERE attnum > 0 AND NOT attisdropped
            AND attrelid IN (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p'))
         UNION ALL
         SELECT format('function %s', oid::regprocedure) FROM pg_proc WHERE oid >= 16384
         UNION ALL
         SELECT format('setting %s', u) FROM pg_db_role_setting, unnest(setconfig) u",
    )?;
    for row in rows(&reply)? {
        let what: String = row.get("what")?;
        // What this program has made of bytes that are no text.
        if what.contains(char::REPLACEMENT_CHARACTER) {
            return Err(DumpError::Name { what }.into());
        }
    }
    Ok(())
}

/// What a node's database has its sessions begin with, for all roles and for some.
pub fn settings_of(keeper: &mut Keeper) -> Result<Vec<Setting>, Failure> {
    let groupid = keeper.node.groupid;
    let reply = keeper.ask(
        "list the database's settings",
        "SELECT r.rolname AS role, split_part(u.entry, '=', 1) AS name,
                substr(u.entry, strpos(u.entry, '=') + 1) AS value
           FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
          CROSS JOIN LATERAL unnest(s.setconfig) WITH ORDINALITY AS u(entry, place)
          WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (s.setrole = 0 OR r.rolname IS NOT NULL)
          ORDER BY r.rolname NULLS FIRST, u.place",
    )?;
    Ok(collect(&reply, |row| {
        Ok(Setting {
            groupid,
            role: row.maybe("role")?,
            name: row.get("name")?,
            value: row.get("value")?,
        })
    })?)
}

pub fn large_objects(keeper: &mut Keeper, not_dumped: &mut Vec<String>) -> Result<(), Failure> {
    let sql = "SELECT count(*) FROM pg_largeobject_metadata";
    let count: i64 = keeper.ask("count large objects", sql)?.parse_single()?;
    if count > 0 {
        let node = keeper.session.node();
        not_dumped.push(format!("{count} large objects on {node}"));
    }
    Ok(())
}

/// What moves and splits have left behind for Citus to drop.
pub fn leavings(coordinator: &mut Keeper) -> Result<HashSet<String>, Failure> {
    let sql = "SELECT object_name FROM pg_dist_cleanup";
    let reply = coordinator.ask("list what is to be cleaned up", sql)?;
    let mut leavings = HashSet::new();
    for row in rows(&reply)? {
        let name: String = row.get("object_name")?;
        leavings.insert(name.strip_prefix("public.").unwrap_or(&name).to_owned());
    }
    Ok(leavings)
}
