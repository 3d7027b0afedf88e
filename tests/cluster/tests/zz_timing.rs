use std::time::Instant;
use test_cluster::*;
#[test]
fn timing() -> Result<()> {
    let t = Instant::now();
    let cluster = Cluster::builder(Engine::Citus).workers(2).without_fence().build()?;
    eprintln!("build {:?}", t.elapsed());
    let t = Instant::now();
    let bank = Bank::create(&cluster, 40, 1000)?;
    eprintln!("bank {:?}", t.elapsed());
    let t = Instant::now();
    let w = bank.start_writers(&cluster, 1)?;
    w.wait_for_more(300, PATIENCE)?;
    let s = w.stop();
    eprintln!("writers {:?} {:?} {:?}", t.elapsed(), s.acknowledged.len(), s.latency_at(0.5));
    let t = Instant::now();
    let mut copies = vec![];
    for i in 0..3 {
        let c = cluster.copy_target("a", i)?;
        cluster.node(i).base_backup(&c, WalMethod::Stream)?;
        copies.push(c);
    }
    eprintln!("backups {:?}", t.elapsed());
    let t = Instant::now();
    let mut r = Restore::new(&cluster, &copies)?;
    eprintln!("new {:?}", t.elapsed());
    r.isolate()?;
    r.start()?;
    eprintln!("start {:?}", t.elapsed());
    r.rewrite_addresses()?;
    r.recover_prepared()?;
    eprintln!("rewrite, recover {:?}", t.elapsed());
    r.end_isolation()?;
    eprintln!("restore {:?}", t.elapsed());
    let c = r.into_cluster();
    let t = Instant::now();
    bank.audit(&c, [])?;
    eprintln!("audit {:?}", t.elapsed());
    let t = Instant::now();
    drop(c);
    eprintln!("drop {:?}", t.elapsed());
    let t = Instant::now();
    let mut copies = vec![];
    for i in 0..3 {
        let c = cluster.copy_target("b", i)?;
        cluster.node(i).copy_files(&c)?;
        copies.push(c);
    }
    eprintln!("plain copies {:?}", t.elapsed());
    let t = Instant::now();
    cluster.worker(1).stop(StopMode::Immediate)?;
    cluster.worker(1).start()?;
    eprintln!("immediate+start {:?}", t.elapsed());
    let t = Instant::now();
    cluster.worker(1).restart()?;
    eprintln!("restart {:?}", t.elapsed());
    let o = std::process::Command::new("du")
        .arg("-sh")
        .arg("/tmp")
        .args(copies.iter())
        .arg(copies[1].join("pg_wal"))
        .output()
        .unwrap();
    eprintln!("{}", String::from_utf8_lossy(&o.stdout));
    let t = Instant::now();
    for c in copies {
        std::fs::remove_dir_all(c).unwrap();
    }
    eprintln!("remove {:?}", t.elapsed());
    let t = Instant::now();
    drop(cluster);
    eprintln!("drop {:?}", t.elapsed());
    Ok(())
}
