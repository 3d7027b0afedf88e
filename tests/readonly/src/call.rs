//! A call in a session of its own, and what that session is told while it waits.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use test_cluster::Server;
use test_cluster::postgres::{Error, NoTls, SimpleQueryMessage};

/// The call.
pub struct Call {
    thread: JoinHandle<Result<String, Error>>,
    said: Arc<Mutex<String>>,
}

impl Call {
    /// Begins it.
    pub fn begin(node: &Server, sql: &'static str) -> Self {
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let mut config = node.connect_params().config();
        config.notice_callback(move |notice| {
            let detail = notice.detail().unwrap_or_default();
            let mut heard = heard.lock().expect("no panic");
            heard.push_str(&format!("{} {detail}\n", notice.message()));
        });
        let thread = std::thread::spawn(move || {
            let mut client = config.connect(NoTls).expect("a connection");
            let rows = client.simple_query(sql)?;
            Ok(rows
                .iter()
                .find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .unwrap_or_default())
        });
        Self { thread, said }
    }

    /// Whether its session was told of that process.
    pub fn has_named(&self, pid: &str) -> bool {
        self.said.lock().expect("no panic").contains(pid)
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Its first value, as text, or its error.
    pub fn join(self) -> Result<String, Error> {
        self.thread.join().expect("a thread")
    }
}
