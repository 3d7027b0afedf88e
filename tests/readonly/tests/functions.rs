//! A session does not go by what a function was when it was first called.

use readonly_tests::{
    Engine, Result, assert_untouched, close, on_each_engine, open, refused, single, value,
};

/// A function that was harmless becomes another one, by another session, and keeps its number.
#[test]
fn one_that_becomes_another_is_looked_at_again() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        let define = |of: &str| -> Result<()> {
            let head =
                "CREATE OR REPLACE FUNCTION turncoat(text, text) RETURNS void LANGUAGE internal AS";
            node.execute(&format!("{head} '{of}'"))
        };
        define("text_lt")?;
        let mut client = node.connect()?;
        let call = "SELECT turncoat('news', 'text')";
        client.batch_execute(call).expect(call);
        define("pg_notify")?;
        close(node)?;
        refused(&mut client, call);
        open(node)?;
        define("text_lt")?;
        close(node)?;
        client.batch_execute(call).expect("it is harmless again");
        assert_eq!(value(&mut client, "SELECT 1"), "1");
        open(node)?;
        assert_untouched(node)
    });
}
