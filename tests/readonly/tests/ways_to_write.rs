//! Every way to write that we know of: on the open node each works, on the closed one it is refused,
//! allowed, or on the list of what an extension cannot stop; and nothing else comes of it.

use std::collections::{BTreeSet, HashSet};

use readonly_tests::ways::{self, Expected, FIXTURES, Way};
use readonly_tests::{
    Client, Cluster, Engine, PATIENCE, REFUSED, Result, Server, WORDS, assert_untouched, close,
    is_read_only, on_each_engine, open, single, traces_of_writers, ungated, value, wait_until,
};
use test_cluster::{Installation, describe, say};

/// Fewer would not be the table that was asked for.
const FEWEST: usize = 70;

#[test]
fn each_way_to_write_is_refused_allowed_or_known() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        let runner = Runner::new(&cluster, engine)?;
        let installation = Installation::current()?;
        let ways = ways::all(engine);
        let names: HashSet<&str> = ways.iter().map(|way| way.name).collect();
        assert_eq!(names.len(), ways.len(), "a name is used twice");
        let (ways, absent): (Vec<_>, Vec<_>) = ways
            .into_iter()
            .map(|way| (way.absent_from(installation), way))
            .partition(|(reason, _)| reason.is_none());
        for (reason, way) in &absent {
            say(&format!("skipped {:?}: {}", way.name, reason.as_deref().unwrap_or_default()));
        }
        assert!(ways.len() >= FEWEST, "only {} ways", ways.len());

        let mut wrong = Vec::new();
        for (_, way) in &ways {
            if let Err(problem) = runner.check(way) {
                let problem = problem.split("\n  end of its log").next().unwrap_or_default();
                wrong.push(format!("{}: {problem}", way.name));
                wait_until("the node to answer", PATIENCE, || node.connect().ok())?;
                // Whatever it left, the next one is to be looked at on its own.
                if is_read_only(node)? {
                    open(node)?;
                }
            }
        }
        println!("{}: {} ways to write", engine.name(), ways.len());
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ways.len(), wrong.join("\n"));
        assert_untouched(node)
    });
}

/// What a way needs to be run.
struct Runner<'a> {
    node: &'a Server,
    replace: [(&'static str, String); 3],
}

impl<'a> Runner<'a> {
    fn new(cluster: &'a Cluster, engine: Engine) -> Result<Self> {
        let node = cluster.coordinator();
        for statement in FIXTURES {
            node.execute(statement)?;
        }
        cluster.create_distributed(
            "CREATE TABLE spread (id bigint PRIMARY KEY, n bigint)",
            "spread",
            "id",
            4,
        )?;
        for id in 1..=4 {
            let insert = format!("INSERT INTO %s VALUES ({id}, 0)");
            node.execute(&engine.shard_sql("spread", id, &insert))?;
        }
        // The server writes there as its own user.
        let folder = cluster.copy_target("files", 0)?;
        let folder = folder.parent().expect("a folder").display().to_string();
        let replace = [
            ("{conninfo}", node.connect_params().conninfo().replace('\'', "''")),
            ("{folder}", folder),
            ("{worker}", cluster.catalog_port(1).to_string()),
        ];
        Ok(Self { node, replace })
    }

    /// Its error is what is wrong.
    fn check(&self, way: &Way) -> std::result::Result<(), String> {
        let count = || ungated(self.node).map_err(|error| error.to_string());
        let before = count()?;
        self.try_way(way)?;
        match count()? - before {
            0 => Ok(()),
            more => Err(format!("commits {more} times without the gate")),
        }
    }

    fn try_way(&self, way: &Way) -> std::result::Result<(), String> {
        self.each(way.setup).map_err(|error| format!("its set-up: {error}"))?;
        // The control: it is a valid way to write.
        let mut client = self.node.connect().map_err(|error| error.to_string())?;
        let control = self
            .in_session(&mut client, way.before)
            .and_then(|()| self.in_session(&mut client, way.run));
        drop(client);
        let undone = self.each(way.undo);
        control.map_err(|error| format!("does not work on the open node: {}", describe(&error)))?;
        undone.map_err(|error| format!("its undoing: {error}"))?;

        self.each(way.setup).map_err(|error| format!("its set-up again: {error}"))?;
        let verdict = self.on_the_closed_node(way);
        let opened = open(self.node);
        let undone = self.each(way.undo);
        verdict?;
        opened.map_err(|error| format!("opening the node again: {error}"))?;
        undone.map_err(|error| format!("its undoing after the refusal: {error}"))
    }

    fn on_the_closed_node(&self, way: &Way) -> std::result::Result<(), String> {
        let text = |error: test_cluster::Error| error.to_string();
        let mut client = self.node.connect().map_err(text)?;
        self.in_session(&mut client, way.before)
            .map_err(|error| format!("in its session, before: {}", describe(&error)))?;
        let lsn = close(self.node).map_err(text)?;
        let outcome = self.in_session(&mut client, way.run);
        match (way.expected, &outcome) {
            (Expected::Refused | Expected::Late(_), Err(error)) => {
                is_refusal(error, REFUSED, WORDS)?
            }
            (Expected::RefusedAs(sqlstate), Err(error)) => is_refusal(error, sqlstate, "")?,
            (Expected::Ended, Err(_)) if client.simple_query("SELECT 1").is_err() => {}
            (Expected::Allowed | Expected::Honest(_), Ok(())) => {}
            (_, Ok(())) => return Err("goes through".into()),
            (_, Err(error)) => return Err(format!("does not go through: {}", describe(error))),
        }
        let _ = client.batch_execute("ROLLBACK");
        if way.expected != Expected::Ended && value(&mut client, "SELECT 1") != "1" {
            return Err("its session is broken".into());
        }
        drop(client);
        let traces = traces_of_writers(self.node, &lsn).map_err(text)?;
        let left: BTreeSet<String> =
            traces.iter().map(|record| format!("{} {}", record.manager, record.kind())).collect();
        let expected: BTreeSet<String> = match way.expected {
            Expected::Honest(records) | Expected::Late(records) => {
                records.iter().map(|record| (*record).to_owned()).collect()
            }
            Expected::Refused | Expected::Ended | Expected::RefusedAs(_) | Expected::Allowed => {
                BTreeSet::new()
            }
        };
        if left == expected { Ok(()) } else { Err(format!("leaves {left:?}: {traces:?}")) }
    }

    /// In a session of their own.
    fn each(&self, statements: &[&str]) -> std::result::Result<(), String> {
        if statements.is_empty() {
            return Ok(());
        }
        let mut client = self.node.connect().map_err(|error| error.to_string())?;
        self.in_session(&mut client, statements).map_err(|error| describe(&error))
    }

    fn in_session(
        &self,
        client: &mut Client,
        statements: &[&str],
    ) -> std::result::Result<(), test_cluster::postgres::Error> {
        statements.iter().try_for_each(|statement| client.batch_execute(&self.filled(statement)))
    }

    fn filled(&self, statement: &str) -> String {
        self.replace
            .iter()
            .fold(statement.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// Whether an error is the refusal that it is to be, and its session lives on.
fn is_refusal(
    error: &test_cluster::postgres::Error,
    sqlstate: &str,
    words: &str,
) -> std::result::Result<(), String> {
    let Some(db) = error.as_db_error() else {
        return Err(format!("loses its session: {}", describe(error)));
    };
    if db.severity() != "ERROR" {
        return Err(format!("ends its session: {}", describe(error)));
    }
    if db.code().code() != sqlstate || !db.message().contains(words) {
        return Err(format!("is refused otherwise: {}", describe(error)));
    }
    Ok(())
}
