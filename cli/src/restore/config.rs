//! The two configurations of a copy: ours for the first start, and production's with what keeps it quiet.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::fault::{At, Fault};
use super::guard::FORMER_AUTO_CONF;
use super::plan::Place;
use super::programs::Control;

/// Production's background work that would touch other nodes before it is known who they are.
pub const QUIET: [&str; 4] = [
    "citus.recover_2pc_interval",
    "citus.defer_shard_delete_interval",
    "citus.background_task_queue_interval",
    "citus.distributed_deadlock_detection_factor",
];

/// What of production's ALTER SYSTEM leads to production, or has no meaning after a recovery.
const DROPPED: [&str; 5] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "primary_slot_name",
    "recovery_target",
];

/// How far the first start is to recover.
#[derive(Clone, Copy, Debug)]
pub enum Recovery<'a> {
    /// As far as the copy itself says.
    Own,
    /// To the end of the copy, with an archive.
    FromArchive(&'a str),
    /// To a restore point, and then shut down or be promoted.
    To { restore_command: &'a str, point: &'a str, timeline: i32, promote: bool },
}

/// The configuration of a first start. Nothing of production's is read: not its `data_directory`, which beats `-D`,
/// not its archive_command, not its libraries. What recovery needs is taken from the control file.
pub fn first(
    place: &Place,
    private: &Path,
    control: &Control,
    libraries: &[String],
    recovery: Recovery<'_>,
    major: u32,
) -> Result<String, Fault> {
    let data = &place.to.data;
    let entries = |name: &str| -> Result<u64, Fault> {
        let path = data.join(name);
        match fs::read_dir(&path) {
            Ok(entries) => Ok(u64::try_from(entries.count()).unwrap_or(u64::MAX)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).at("read", &path),
        }
    };
    // Citus raises it by itself, so no file says how many there may be: what recovery meets must have room.
    let prepared = control.number("max_prepared_xacts setting")?.max(entries("pg_twophase")?) + 100;
    let slots = entries("pg_replslot")? + 1000;
    let private_file = |name: &str| private.join(name).display().to_string();
    let mut text = String::new();
    let mut set = |name: &str, value: &str| text.push_str(&line(name, value));
    set("data_directory", &data.display().to_string());
    set("hba_file", &private_file("hba"));
    set("ident_file", &private_file("ident"));
    set("unix_socket_directories", &private.display().to_string());
    set("port", "5432");
    for name in [
        "listen_addresses",
        "session_preload_libraries",
        "local_preload_libraries",
        "synchronous_standby_names",
        "primary_conninfo",
        "recovery_end_command",
        "archive_cleanup_command",
    ] {
        set(name, "");
    }
    set("shared_preload_libraries", &libraries.join(","));
    for (name, source) in [
        ("max_connections", "max_connections setting"),
        ("max_worker_processes", "max_worker_processes setting"),
        ("max_wal_senders", "max_wal_senders setting"),
        ("max_locks_per_transaction", "max_locks_per_xact setting"),
        ("wal_level", "wal_level setting"),
        ("track_commit_timestamp", "track_commit_timestamp setting"),
    ] {
        set(name, control.get(source)?);
    }
    set("max_prepared_transactions", &prepared.to_string());
    set("max_replication_slots", &slots.to_string());
    set("max_logical_replication_workers", "0");
    for name in ["hot_standby", "autovacuum", "archive_mode", "ssl", "logging_collector"] {
        set(name, "off");
    }
    set("huge_pages", "try");
    set("lc_messages", "C");
    // A statement here may hold somebody's connection string.
    set("log_statement", "none");
    set("log_min_error_statement", "panic");
    if major >= 17 {
        set("event_triggers", "off");
    }
    match recovery {
        Recovery::Own => {}
        Recovery::FromArchive(command) => {
            set("restore_command", command);
            set("recovery_target", "immediate");
            set("recovery_target_action", "promote");
            set("recovery_target_timeline", &place.node.timeline.to_string());
        }
        Recovery::To { restore_command, point, timeline, promote } => {
            set("restore_command", restore_command);
            set("recovery_target_name", point);
            set("recovery_target_action", if promote { "promote" } else { "shutdown" });
            // Never a later one: copies of copies may have left their histories in the archive.
            set("recovery_target_timeline", &timeline.to_string());
        }
    }
    Ok(text)
}

/// What is added to that, so that the same server runs with Citus, among copies like itself and nobody else: their sockets
/// lie in one directory, and a copy knows the others by it.
pub fn among_copies(place: &Place) -> String {
    let sockets = &place.to.host;
    let mut text = String::new();
    for (name, value) in [
        ("unix_socket_directories", sockets.as_str()),
        ("port", &place.to.port.to_string()),
        ("cluster_name", "temporary"),
        ("fsync", "off"),
        ("citus.local_hostname", sockets),
        // Production's may ask for certificates, or lead to it by an address.
        ("citus.node_conninfo", "sslmode=disable"),
        ("citus.enable_statistics_collection", "off"),
    ] {
        text.push_str(&line(name, value));
    }
    QUIET.iter().for_each(|name| text.push_str(&line(name, "-1")));
    text
}

/// What replaces production's postgresql.auto.conf: it, and what keeps the node from production and quiet until
/// `restore finish`. As text, since ALTER SYSTEM does not know Citus' names where Citus is not loaded.
pub fn quiet(former: &str, place: &Place, restore_id: &str) -> String {
    let mut text = String::from(
        "# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n",
    );
    let own: BTreeMap<String, String> = [
        ("port", place.to.port.to_string()),
        ("cluster_name", format!("restored-{restore_id}")),
        ("archive_mode", "off".into()),
        ("synchronous_standby_names", String::new()),
        ("primary_conninfo", String::new()),
        ("max_logical_replication_workers", "0".into()),
        ("citus.local_hostname", place.to.host.clone()),
    ]
    .into_iter()
    .chain(QUIET.map(|name| (name, "-1".to_owned())))
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    for (name, value) in settings(former) {
        if !own.contains_key(&name) && !DROPPED.iter().any(|dropped| name.starts_with(dropped)) {
            text.push_str(&line(&name, &value));
        }
    }
    for (name, value) in &own {
        text.push_str(&line(name, value));
    }
    text
}

/// A file of the copy's own in place of the one that its configuration names: there the process of production may be
/// written, and the file goes when the copy stops.
pub fn own_pid_file(place: &Place) -> String {
    line("external_pid_file", &place.to.data.join("external.pid").display().to_string())
}

/// Production's former postgresql.auto.conf.
pub fn former(data: &Path) -> Result<String, Fault> {
    let path = data.join(FORMER_AUTO_CONF);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.at("read", &path),
    }
}

/// The settings of a postgresql.auto.conf, in order: the server writes them a line each, as `name = 'value'`.
pub fn settings(text: &str) -> Vec<(String, String)> {
    let one = |line: &str| {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
        let name = line[..end].to_ascii_lowercase();
        let rest = line[end..].trim_start().trim_start_matches('=').trim();
        let value = match rest.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            Some(inner) => inner.replace("''", "'").replace("\\\\", "\\"),
            None => rest.to_owned(),
        };
        Some((name, value)).filter(|(name, _)| !name.is_empty())
    };
    text.lines().filter_map(one).collect()
}

/// A line of a configuration file.
fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Whether a list of libraries, as `shared_preload_libraries` shows it, has Citus in it.  `citus_fence` is another one.
pub fn preloads_citus(libraries: &str) -> bool {
    names(libraries).any(|name| name == "citus")
}

/// Without folders and quotes.
fn names(libraries: &str) -> impl Iterator<Item = &str> {
    libraries.split(',').map(|library| {
        let library = library.trim().trim_matches('"');
        library.rsplit('/').next().unwrap_or(library)
    })
}

/// Libraries that do nothing by themselves, or nothing elsewhere; pg_cron's jobs are off.
const QUIET_LIBRARIES: [&str; 10] = [
    "citus",
    "citus_columnar",
    "citus_fence",
    "pg_cron",
    "pg_stat_statements",
    "auto_explain",
    "auth_delay",
    "passwordcheck",
    "pg_prewarm",
    "pgaudit",
];

/// What is said of the libraries in that list of which this program does not know what they do by themselves.
pub fn acting(libraries: &str) -> Vec<String> {
    names(libraries)
        .filter(|name| !name.is_empty() && !QUIET_LIBRARIES.contains(name))
        .map(|name| {
            format!("it preloads {name}: see before it is started whether that acts on production by itself")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citus_is_told_from_what_begins_like_it() {
        for list in ["citus", "citus,citus_fence", "pg_cron, \"citus\"", "$libdir/citus"] {
            assert!(preloads_citus(list), "{list}");
        }
        for list in ["", "citus_fence", "pg_cron,citus_columnar", "nocitus"] {
            assert!(!preloads_citus(list), "{list}");
        }
    }

    #[test]
    fn libraries_that_may_act_by_themselves_are_named() {
        assert!(acting("citus, \"citus_fence\",$libdir/pg_cron").is_empty());
        assert!(acting("").is_empty());
        let said = acting("citus,pglogical,$libdir/timescaledb");
        assert!(said.len() == 2 && said[1].contains("preloads timescaledb:"), "{said:?}");
    }

    #[test]
    fn settings_are_read_as_the_server_writes_them() {
        let text = "# a comment\nwork_mem = '4MB'\narchive_command = 'cp ''%p'' \\\\x'\nPort=5\n\n";
        assert_eq!(
            settings(text),
            [
                ("work_mem".into(), "4MB".into()),
                ("archive_command".into(), "cp '%p' \\x".into()),
                ("port".into(), "5".into())
            ]
        );
        let again: String = settings(text).iter().map(|(name, value)| line(name, value)).collect();
        assert_eq!(settings(&again), settings(text));
    }

    #[test]
    fn nothing_that_leads_to_production_stays() {
        let place = Place {
            to: super::super::args::To {
                group: 1,
                host: "h".into(),
                port: 7,
                data: "/d".into(),
                config: None,
            },
            node: serde_json::from_str(
                r#"{"nodeid":1,"groupid":1,"name":"n","port":1,"system_identifier":"1","timeline":1,"forks":[],
                    "wal_lsn":"0/1","postgresql":"15","bytes":0,"data":null,"config":null,"tablespaces":[],"tool":"x"}"#,
            )
            .expect("a node"),
            mappings: Vec::new(),
            restore_command: None,
        };
        let text = quiet(
            "work_mem = '1MB'\nprimary_conninfo = 'host=production'\nrecovery_target_time = 'x'\n\
             restore_command = 'y'\narchive_mode = 'on'\nport = '1'\n",
            &place,
            "id",
        );
        let kept: BTreeMap<_, _> = settings(&text).into_iter().collect();
        assert_eq!(kept["work_mem"], "1MB");
        assert_eq!(kept["port"], "7");
        assert_eq!(kept["primary_conninfo"], "");
        assert_eq!(kept["archive_mode"], "off");
        assert!(!text.contains("recovery_target") && !text.contains("restore_command"), "{text}");
        assert!(QUIET.iter().all(|name| kept[*name] == "-1"));
    }
}
