//! Whose a database is and who may use it, comes with `--create`, on every node: a copy lets nobody in whom production
//! does not.

mod common;

use common::restored::restore_command;
use common::{command, run, second_cluster};
use fence_tests::{Cluster, Result, on_each_engine};
use test_cluster::Server;

/// As one server has it.
fn access(server: &Server) -> Result<String> {
    server.query_value(
        "SELECT format('%s %s %s %s', pg_get_userbyid(datdba), datconnlimit, datacl, shobj_description(oid, 'pg_database'))
           FROM pg_database WHERE datname = 'second'",
    )
}

fn roles(cluster: &Cluster) -> Result<()> {
    let sql = "SET citus.enable_ddl_propagation = off; CREATE ROLE \"own er\"; CREATE ROLE reader";
    cluster.execute_everywhere(sql)
}

#[test]
fn who_may_use_a_database_comes_with_it() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        roles(&source)?;
        drop(second_cluster(&source, true)?);
        source.execute_everywhere(
            "SET citus.enable_ddl_propagation = off; ALTER DATABASE second OWNER TO \"own er\";
             REVOKE CONNECT ON DATABASE second FROM PUBLIC;
             GRANT CONNECT ON DATABASE second TO reader WITH GRANT OPTION",
        )?;
        source.coordinator().execute(
            "SET citus.enable_ddl_propagation = off; COMMENT ON DATABASE second IS 'it''s kept'",
        )?;
        // Not what the coordinator has.
        source.worker(1).execute(
            "SET citus.enable_ddl_propagation = off; ALTER DATABASE second CONNECTION LIMIT 7;
             REVOKE ALL ON DATABASE second FROM \"own er\"",
        )?;
        let was: Vec<String> = source.nodes().iter().map(access).collect::<Result<_>>()?;
        assert!(was[0].contains("own er -1 ") && was[0].ends_with("it's kept"), "{was:?}");
        assert!(was[1].contains(" 7 "), "{was:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let port = source.coordinator().port().to_string();
        let words = ["dump", "-h", test_cluster::HOST, "-p", &port, "-U", test_cluster::SUPERUSER];
        let bindir = test_cluster::Installation::current()?.bindir().to_owned();
        run(command(&words).args(["-d", "second", "--bindir"]).arg(bindir).arg(&dir)).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        // Roles that are not there are named; who is not meant to be let in is not let in all the same.
        let ended = run(&mut restore_command(port, &dir, &["--create"])).expect(3);
        for words in [
            "the database has not its owner own er",
            "the database has not the privilege CONNECT for reader",
        ] {
            assert!(ended.out.contains(words), "{words}: {ended:?}");
        }
        for node in target.nodes() {
            let public = "SELECT count(*) FROM pg_database d, aclexplode(d.datacl) a
                           WHERE datname = 'second' AND a.grantee = 0 AND a.privilege_type = 'CONNECT'";
            assert_eq!(node.query_value(public)?, "0", "{engine}");
            node.execute("DROP DATABASE second WITH (FORCE)")?;
        }
        roles(&target)?;
        run(&mut restore_command(port, &dir, &["--create"])).expect(0);
        let is: Vec<String> = target.nodes().iter().map(access).collect::<Result<_>>()?;
        // A worker that is new has what the first had.
        assert_eq!(is, [was[0].clone(), was[1].clone(), was[1].clone()], "{engine}");
        Ok(())
    });
}
