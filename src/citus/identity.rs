//! Who answers in a session, and whether that is the node that was meant.
//!
//! A wrong address, a stale virtual one, a pooler that leads elsewhere: locks would be held on another server than
//! the one that goes on writing, and everything would look well.  So the first answer of a session tells of which
//! group the server is, which server it is, and what it runs.

use pgrx::PgSqlErrorCode;
#[cfg(doc)]
use remote::Command;
use remote::{NodeLabel, RemoteError, Reply};

use super::{COORDINATOR_GROUP, Node, own_role};
use crate::pg::{guc, ident, lock, small_table};
use crate::report::Report;

/// Version of this extension.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What each transaction of a session of ours begins with, whatever its role, its database or its server says: it is the
/// owner of the extension, a superuser; an operator or function of somebody else's never stands in for one of the
/// server's; and names look as they are compared here.
macro_rules! as_owner {
    () => {
        "SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog; SET LOCAL quote_all_identifiers = off;"
    };
}
pub(crate) use as_owner;
/// The same.
pub const AS_OWNER: &str = as_owner!();

/// What a session says of itself, as columns.
macro_rules! of_itself {
    () => {
        "pg_catalog.current_setting('citus_fence.server_number', true) AS server_number, \
         pg_catalog.current_setting('citus_fence.library_version', true) AS library_version, \
         pg_catalog.current_setting('is_superuser') AS is_superuser, \
         current_user AS own_role"
    };
}

/// What a session is asked for with its first command, as columns.  No function of an extension is among it, which
/// somebody else's could stand in for, and nothing that fails where there is none.  In a transaction with a safe
/// search path.
pub const QUESTION: &str = concat!(
    of_itself!(),
    ", (SELECT groupid FROM pg_catalog.pg_dist_local_group) AS local_group, \
     (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus_fence') AS extension_version"
);

/// The same as statements, the last of which is open for more columns, for [`Command::with_copies`]: a fresh session
/// plans no query of a table, which costs it a quarter of what it takes to begin.
pub const QUICK_QUESTION: &str = concat!(
    "COPY pg_catalog.pg_dist_local_group (groupid) TO STDOUT; \
     COPY pg_catalog.pg_extension (extname, extversion) TO STDOUT; \
     SELECT ",
    of_itself!()
);

/// What a server is asked for besides that has no number ([`Who::is_known`]): where it has one, a fresh session is
/// spared what it takes to look all of this up.
pub const MARKS: &str = "CASE WHEN pg_catalog.current_setting('is_superuser') = 'on' \
          THEN pg_catalog.strpos(pg_catalog.current_setting('shared_preload_libraries'), 'citus_fence') > 0 END \
         AS preloads, \
     CASE WHEN pg_catalog.current_setting('is_superuser') = 'on' \
          THEN pg_catalog.current_setting('data_directory') END AS data_directory, \
     pg_catalog.pg_control_system()::pg_catalog.text AS control_system, \
     EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text AS started";

/// What a server has answered to that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Drawn at its start; none where it does not preload the library.
    server_number: Option<String>,
    /// Of its data directory's origin.
    system_identifier: String,
    started: String,
    data_directory: String,
    group: Option<i32>,
    /// The extension's, where it is.
    extension: Option<String>,
    /// The library's, where it is loaded and says so.
    library: Option<String>,
    preloads: bool,
    is_superuser: bool,
    role: String,
}

impl Who {
    /// Takes it out of the answer to [`QUESTION`], or to the quick one.
    pub fn read(reply: &Reply) -> Result<Self, RemoteError> {
        let value = |column: &str| value(reply, column);
        let mut copied = reply.sets.iter().filter(|set| set.command_tag.starts_with("COPY"));
        let (groups, extensions) = (copied.next(), copied.next());
        let group = groups.and_then(|set| set.rows.first()?.first()?.clone());
        let extension = extensions.and_then(|set| {
            let is_ours = |row: &&Vec<_>| row.first() == Some(&Some("citus_fence".to_owned()));
            set.rows.iter().find(is_ours)?.get(1)?.clone()
        });
        if reply.sets.iter().all(|set| set.value(0, "is_superuser").is_none()) {
            return Err(reply.unexpected("it does not tell who answers"));
        }
        Ok(Self {
            server_number: value("server_number"),
            group: value("local_group").or(group).and_then(|text| text.parse().ok()),
            extension: value("extension_version").or(extension),
            library: value("library_version"),
            is_superuser: value("is_superuser").as_deref() == Some("on"),
            role: value("own_role").unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Takes what is beside it out of the answer to [`MARKS`].
    pub fn read_marks(&mut self, reply: &Reply) -> Result<(), RemoteError> {
        let value = |column: &str| value(reply, column);
        let (Some(control), Some(started)) = (value("control_system"), value("started")) else {
            return Err(reply.unexpected("it does not tell who answers"));
        };
        // As a row's text: versions, then the identifier.
        self.system_identifier = control.split(',').nth(2).unwrap_or_default().to_owned();
        self.started = started;
        self.data_directory = value("data_directory").unwrap_or_default();
        self.preloads = value("preloads").as_deref() == Some("t");
        Ok(())
    }

    /// Takes it out of the answer to both at once.
    pub fn read_whole(reply: &Reply) -> Result<Self, RemoteError> {
        let mut who = Self::read(reply)?;
        who.read_marks(reply)?;
        Ok(who)
    }

    /// Whether it can be told from any other by what it has answered so far.
    pub fn is_known(&self) -> bool {
        self.server_number.is_some() || !self.started.is_empty()
    }

    /// What this server would answer, as far as others are compared with it.
    pub fn here() -> Self {
        Self {
            server_number: own_number(),
            system_identifier: ident::system_identifier().to_string(),
            started: ident::started(),
            data_directory: guc::read("data_directory").unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Whether both are one server.  The same identifier alone says nothing: a clone has its source's.
    pub fn is_same_server(&self, other: &Self) -> bool {
        match (&self.server_number, &other.server_number) {
            (Some(one), Some(another)) => one == another,
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => {
                self.system_identifier == other.system_identifier
                    && self.started == other.started
                    && self.data_directory == other.data_directory
            }
        }
    }

    /// An error if it is not that node, or does not run what this server runs, where the extension has the version
    /// `own`.
    pub fn must_fit(&self, node: &Node, own: Option<&str>) -> Result<(), IdentityError> {
        self.must_be(node)?;
        self.must_run_the_same(&node.label(), own)
    }

    /// An error if it is not that node, or not for these sessions.
    pub fn must_be(&self, node: &Node) -> Result<(), IdentityError> {
        let name = || node.label().to_string();
        if !self.is_superuser {
            return Err(IdentityError::NotSuperuser { node: name(), role: self.role.clone() });
        }
        // A node that has no metadata (any more) does not know its group.
        let is_of_group = self.group == Some(node.groupid)
            || (self.group == Some(COORDINATOR_GROUP) && !(node.active && node.has_metadata));
        if !is_of_group {
            return Err(IdentityError::OtherGroup {
                node: name(),
                group: self.group,
                expected: node.groupid,
            });
        }
        // The coordinator is this very server.
        let own = own_number();
        if node.groupid == COORDINATOR_GROUP && own.is_some() && self.server_number != own {
            return Err(IdentityError::NotHome { at: name() });
        }
        Ok(())
    }

    /// An error if it has another version of this extension, or of its library.  The two may differ, for the library is
    /// replaced first; the nodes may not.
    fn must_run_the_same(&self, node: &NodeLabel, own: Option<&str>) -> Result<(), IdentityError> {
        let library = match (&self.library, self.preloads) {
            // It has told its version since 0.2.0.
            (None, true) => Some("before 0.2.0"),
            (library, _) => library.as_deref(),
        };
        let node = node.to_string();
        if let Some(theirs) = library.filter(|theirs| *theirs != VERSION) {
            return Err(IdentityError::OtherLibrary { node, theirs: theirs.to_owned() });
        }
        match (self.extension.as_deref(), own) {
            (Some(theirs), Some(own)) if theirs != own => {
                let (theirs, own) = (theirs.to_owned(), own.to_owned());
                Err(IdentityError::OtherVersion { node, theirs, own })
            }
            (_, _) => Ok(()),
        }
    }
}

/// Version of an extension in this database, if it is there, inside a transaction.
pub fn extension_version(name: &str) -> Option<String> {
    let relation = lock::catalog_relation(c"pg_extension")?;
    let rows = small_table::rows(relation, &[c"extname", c"extversion"]).into_iter();
    rows.filter(|row| row[0].as_deref() == Some(name)).find_map(|mut row| row[1].take())
}

/// Whether a function of that definition, as `pg_get_functiondef` writes it, is this extension's.  Only a superuser
/// makes functions in C: one in another language is somebody else's, and must not run with these sessions' rights.
/// Where this one is ours, the schema belongs to the extension's owner, and nobody else puts another into it.
///
/// Everything up to the language is known, so that nothing in a stranger's function can pass for it.
pub fn is_own_function(definition: Option<&str>, signature: &str, returns: &str) -> bool {
    let head = format!("CREATE OR REPLACE FUNCTION {signature}\n RETURNS {returns}\n LANGUAGE c\n");
    definition
        .and_then(|text| text.strip_prefix(head.as_str()))
        .is_some_and(|rest| rest.contains("\nAS '$libdir/citus_fence', "))
}

/// An error if the role that the extension's own sessions act as cannot do here what they have to.
pub fn owner_must_be_superuser() -> Result<(), IdentityError> {
    let owner = own_role();
    if ident::is_superuser(owner) {
        return Ok(());
    }
    let role = ident::role_name(owner);
    Err(IdentityError::NotSuperuser { node: "this node".into(), role })
}

/// Of an answer, where it is not empty.
fn value(reply: &Reply, column: &str) -> Option<String> {
    let found = reply.sets.iter().find_map(|set| set.value(0, column));
    found.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The number by which this server knows itself, as sessions show it.
pub fn own_number() -> Option<String> {
    ident::SERVER_NUMBER.number().map(guc::shown_number)
}

/// An error that names two of them that are one server.
pub fn must_differ<'a>(
    all: impl IntoIterator<Item = (String, &'a Who)>,
) -> Result<(), IdentityError> {
    let mut known: Vec<(String, &Who)> = Vec::new();
    for (node, who) in all {
        if let Some((first, _)) = known.iter().find(|(_, other)| who.is_same_server(other)) {
            return Err(IdentityError::SameServer { first: first.clone(), second: node });
        }
        known.push((node, who));
    }
    Ok(())
}

/// Another server answers than was meant, or one that does not run what this one runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Another node answers.
    #[error("another node than pg_dist_node says answers at {node}")]
    OtherGroup {
        /// Whose address it is.
        node: String,
        /// The group that answers.
        group: Option<i32>,
        /// The group that should.
        expected: i32,
    },
    /// Two nodes are one server.
    #[error("{first} and {second} are one and the same server")]
    SameServer {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// This server reaches another one where it should reach itself.
    #[error("another server answers where this one should, at {at}")]
    NotHome {
        /// Where.
        at: String,
    },
    /// The extension's SQL is of another version.
    #[error("{node} has version {theirs} of the extension citus_fence, and this node {own}")]
    OtherVersion {
        /// Where.
        node: String,
        /// The other version.
        theirs: String,
        /// The version here.
        own: String,
    },
    /// The library is of another version.
    #[error("{node} runs the library of citus_fence {theirs}, and this node that of {VERSION}")]
    OtherLibrary {
        /// Where.
        node: String,
        /// The other version.
        theirs: String,
    },
    /// The role that the sessions are is no superuser there.
    #[error(
        "role \"{role}\", the owner of the extension citus_fence, is not a superuser on {node}"
    )]
    NotSuperuser {
        /// Where.
        node: String,
        /// The role.
        role: String,
    },
    /// Another server is at the address of this one.
    #[error("this server is not the coordinator that pg_dist_node names")]
    Copy {
        /// Where the coordinator is.
        at: String,
        /// Who has found that out.
        by: String,
    },
    /// Nobody can tell whether this server is the coordinator.
    #[error("cannot find out whether this server is the coordinator that pg_dist_node names")]
    Unknown {
        /// Why not.
        why: Vec<String>,
        /// The port of this server.
        port: i32,
    },
}

impl From<&IdentityError> for Report {
    fn from(error: &IdentityError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            IdentityError::OtherGroup { node, group, expected } => {
                let answers = match group {
                    Some(COORDINATOR_GROUP) => "the server that answers is of group 0, the coordinator's".to_owned(),
                    Some(group) => format!("the server that answers is of group {group}"),
                    None => "the server that answers is of no group".to_owned(),
                };
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("In pg_dist_node {node} is of group {expected}; {answers}."))
                    .hint("Correct what leads there: nodename and nodeport in pg_dist_node, the node's row in pg_dist_poolinfo, citus_fence.node_conninfo, or the name's or address' own meaning.")
            }
            IdentityError::SameServer { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("Both rows of pg_dist_node lead to one data directory, so one of the two nodes is not reached at all.")
                    .hint("Correct what leads there: nodename and nodeport in pg_dist_node, the nodes' rows in pg_dist_poolinfo, citus_fence.node_conninfo, or the names' and addresses' own meaning.")
            }
            IdentityError::NotHome { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("This server's sessions with itself lead elsewhere.")
                    .hint("Correct citus.local_hostname, or citus_fence.node_conninfo.")
            }
            IdentityError::OtherVersion { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("All nodes have to have the same version: they call each other's functions.")
                    .hint(format!("With the files of {VERSION} installed on every node and the servers restarted, on the coordinator: ALTER EXTENSION citus_fence UPDATE TO '{VERSION}';"))
            }
            IdentityError::OtherLibrary { node, .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("All nodes have to run the same version: they call each other's functions.")
                    .hint(format!("Install the same version on both, and restart {node}."))
            }
            IdentityError::NotSuperuser { role, .. } => {
                Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                    .detail("The extension's own sessions, on every node, act as its owner, who has to lock tables of the catalog, end sessions in the way, and set superusers' settings.")
                    .hint(format!("There: ALTER ROLE {} SUPERUSER;", crate::pg::quote::identifier(role)))
            }
            IdentityError::Copy { at, by } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("The coordinator is {at}, and another server answers there{by}. This one looks like a copy of it; what it did would be done to the other's nodes."))
                    .hint(format!("Call the function on {at}. A copy that is to be a cluster of its own first needs the copies' addresses in pg_dist_node, on every copy: UPDATE pg_dist_node SET nodename = …, nodeport = … WHERE groupid = …;"))
            }
            IdentityError::Unknown { why, port } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("{}. A copy of a coordinator knows the nodes of the original, which it must not touch.", why.join("; ")))
                    .hint(format!("If this is the coordinator and no copy, say how it is reached from all nodes, itself among them: SELECT citus_set_coordinator_host('host name or address', {port}); pg_hba.conf has to let it in there."))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{IdentityError, VERSION, Who, must_differ};
    use crate::citus::Node;

    fn who(number: Option<&str>, group: i32) -> Who {
        Who {
            server_number: number.map(str::to_owned),
            system_identifier: "7".into(),
            started: "1.5".into(),
            data_directory: format!("/data/{group}"),
            group: Some(group),
            extension: Some(VERSION.into()),
            library: Some(VERSION.into()),
            preloads: true,
            is_superuser: true,
            role: "postgres".into(),
        }
    }

    fn node(group: i32, active: bool, has_metadata: bool) -> Node {
        Node { nodeid: group, groupid: group, host: "w".into(), port: 1, active, has_metadata }
    }

    #[test]
    fn another_group_is_another_node() {
        let is_fit =
            |group, node: Node| who(Some("a"), group).must_fit(&node, Some(VERSION)).is_ok();
        assert!(is_fit(2, node(2, true, true)));
        assert!(!is_fit(3, node(2, true, true)));
        // Without metadata a node takes itself for a coordinator.
        assert!(!is_fit(0, node(2, true, true)));
        assert!(is_fit(0, node(2, true, false)));
        assert!(is_fit(0, node(2, false, true)));
        assert!(!is_fit(3, node(2, true, false)));
    }

    #[test]
    fn other_versions_are_named() {
        let judge = |change: fn(&mut Who)| {
            let mut who = who(Some("a"), 2);
            change(&mut who);
            who.must_fit(&node(2, true, true), Some(VERSION))
        };
        let older = judge(|who| who.extension = Some("0.1.0".into()));
        assert!(
            matches!(older, Err(IdentityError::OtherVersion { theirs, .. }) if theirs == "0.1.0")
        );
        let older = judge(|who| who.library = None);
        assert!(matches!(older, Err(IdentityError::OtherLibrary { .. })));
        // The library is replaced first, on all nodes; then the extension.
        let mut all_older = who(Some("a"), 2);
        all_older.extension = Some("0.1.0".into());
        assert_eq!(all_older.must_fit(&node(2, true, true), Some("0.1.0")), Ok(()));
        // Where the library is not preloaded, and where the extension is not.
        assert_eq!(judge(|who| (who.library, who.preloads) = (None, false)), Ok(()));
        assert_eq!(judge(|who| who.extension = None), Ok(()));
        let role = judge(|who| who.is_superuser = false);
        assert!(matches!(role, Err(IdentityError::NotSuperuser { .. })));
    }

    #[test]
    fn one_server_is_known_by_its_number_or_else_by_place_and_start() {
        let differ = |one: &Who, other: &Who| {
            must_differ([("one".to_owned(), one), ("other".to_owned(), other)]).is_ok()
        };
        assert!(differ(&who(Some("a"), 1), &who(Some("b"), 2)));
        assert!(!differ(&who(Some("a"), 1), &who(Some("a"), 2)));
        // A clone and its source have one identifier.
        assert!(differ(&who(None, 1), &who(None, 2)));
        assert!(!differ(&who(None, 1), &who(None, 1)));
    }
}
