//! That the test bed can be trusted: writers of every kind, at every node, leave a cluster in which the audit finds
//! nothing; and each kind of damage that is done to it by hand, it finds.

use clone_tests::kind::Table;
use clone_tests::{Bed, Engine, Load, PATIENCE, Result, on_each_engine};

const TURNS: u64 = 3;

#[test]
fn an_undisturbed_cluster_audits_clean_and_damage_shows() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        let load = Load::start_everywhere(&bed.cluster, &bed.tables)?;
        load.wait_for_each(TURNS, PATIENCE)?;
        let book = load.stop();
        let complaints = book.complaints(|_, _| false);
        assert!(complaints.is_empty(), "{complaints:#?}");
        let audit = bed.audit(&book)?;
        assert!(audit.is_clean(), "{audit}");
        println!("{}: {audit}", engine.name());

        // Another catalog on one node, and something left there.
        let node = bed.cluster.node(2);
        node.execute(
            "UPDATE pg_catalog.pg_dist_placement SET placementid = placementid + 1000000
              WHERE placementid = (SELECT max(placementid) FROM pg_catalog.pg_dist_placement)",
        )?;
        node.execute("BEGIN; SELECT pg_advisory_xact_lock(1); PREPARE TRANSACTION 'left'")?;
        let audit = bed.audit(&book)?;
        let said = audit.to_string();
        assert_eq!(audit.lost_writes(), 0, "{said}");
        assert!(said.contains("pg_dist_placement: node 2 says otherwise"), "{said}");
        assert!(said.contains("left on node 2: [\"ExclusiveLock on"), "{said}");
        assert!(said.contains("left prepared"), "{said}");
        node.execute("ROLLBACK PREPARED 'left'")?;

        // A row less in every table; a row more, and one that nobody wrote, in one of them.
        let damage = |table: &str, sql: &str| -> Result<()> {
            let placement = &bed.cluster.placements(table)?[0];
            bed.cluster.node(placement.node).execute(&sql.replace("%s", &placement.table))
        };
        let all = bed.tables.all();
        damage("writes", "INSERT INTO %s SELECT * FROM %s WHERE op = (SELECT min(op) FROM %s)")?;
        damage("writes", "INSERT INTO %s SELECT key, 1, part FROM %s LIMIT 1")?;
        for table in &all {
            let sql = match table {
                Table::Counters => "UPDATE %s SET n = n - 1",
                _ => "DELETE FROM %s WHERE op = (SELECT max(op) FROM %s)",
            };
            damage(&table.names()[0], sql)?;
        }
        damage("entries", "DELETE FROM %s WHERE transfer_id = (SELECT max(transfer_id) FROM %s)")?;
        let audit = bed.audit(&book)?;
        let said = audit.to_string();
        for table in all {
            let shows = audit.lost.keys().any(|kind| kind.table() == table);
            assert!(shows, "{table:?} has a row less: {said}");
        }
        assert!(!audit.doubled.is_empty(), "a row more: {said}");
        assert!(said.contains("rows of 1 turns that nobody made"), "a strange row: {said}");
        assert!(said.contains("the bank: "), "half a transfer: {said}");
        if engine == Engine::Citus {
            // Which of the copies it is depends on which shard came first.
            assert!(said.contains("ref_entries: node"), "{said}");
        }
        Ok(())
    });
}
