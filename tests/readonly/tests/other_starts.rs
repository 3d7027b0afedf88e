//! Starts of another kind: without the library nobody reads the state file, and it is still there for the
//! next start with it; a single-user server heeds it, and pg_upgrade's does not.

use readonly_tests::{
    Engine, StopMode, assert_agrees, assert_untouched, close, on_each_engine, open, serve, single,
    state_file, writes,
};

#[test]
fn without_the_library_the_node_writes_until_it_is_loaded_again() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        let with = node.restart_without_fence()?;
        assert!(writes(&mut node.connect()?));
        assert!(state_file(node).exists());
        node.restart_with_libraries(&with)?;
        assert!(assert_agrees(node)?);
        open(node)?;
        assert_untouched(node)
    });
}

#[test]
fn a_single_user_server_heeds_it_and_that_of_an_upgrade_does_not() {
    const WRITE: &str = "INSERT INTO served VALUES (1)";
    const REFUSAL: &str = "cannot execute INSERT: system is now read only";
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        node.stop(StopMode::Fast)?;
        let said = node.single_user(&[], WRITE)?;
        assert!(said.contains(REFUSAL), "{said}");
        // The way round that the manual gives, and how pg_upgrade starts a server.
        for arguments in [["-c", "shared_preload_libraries="].as_slice(), &["-b"]] {
            let said = node.single_user(arguments, WRITE)?;
            assert!(!said.contains("ERROR"), "{arguments:?}: {said}");
        }
        node.start()?;
        assert_eq!(node.query_value("SELECT count(*) FROM served")?, "3");
        assert!(assert_agrees(node)?);
        open(node)?;
        assert_untouched(node)
    });
}
