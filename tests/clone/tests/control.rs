//! The control of all that the other files claim: Citus' own split, under the same writers and the same audit, loses
//! writes. What finds nothing here would find nothing anywhere.

use clone_tests::{Audit, Bed, Engine, How, Result};

/// Within so many tries it shows; it is a matter of moments.
const TRIES: usize = 3;

fn split_by_citus() -> Result<Option<Audit>> {
    let mut bed = Bed::make(Engine::Citus, false)?;
    if !How::CitusOwn.exists(&bed.cluster)? {
        return Ok(None);
    }
    let split = bed.split_under_load(How::CitusOwn)?;
    let audit = bed.audit(&split.book)?;
    println!("Citus' own split took {:.1?}: {audit}", split.called.ended - split.called.began);
    Ok(Some(audit))
}

#[test]
fn citus_own_split_loses_writes() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    for _ in 0..TRIES {
        match split_by_citus()? {
            None => {
                println!("skipped: this Citus has no split of its own");
                return Ok(());
            }
            Some(audit) if audit.lost_writes() > 0 => return Ok(()),
            Some(_) => {}
        }
    }
    panic!("nothing was lost in {TRIES} tries: this test bed shows nothing");
}
