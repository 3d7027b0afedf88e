//! The registry: a row per clone on the coordinator, and the journal of what its split has done.
//!
//! It is read and written over a session with this very server: each step is committed before the next is done,
//! whatever transaction the caller is in.

use remote::{Session, Waiter};
use serde::{Deserialize, Serialize};

use super::error::CloneError;
use super::links::{SHORT, ask};
use super::state::Step;
use super::statements::{self, query};
use crate::pg::quote::literal;
use crate::report::Report;

/// A registered replica: the clone.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its nodeid, also once it is a node.
    pub nodeid: i32,
    /// Where it is.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// The node that it replicates.
    pub source: i32,
    /// How far its split is.
    pub step: Step,
    /// The secret that opens its gate, and the part of names that nobody else's have.
    pub token: String,
    /// The slot that it streams from, if any.
    pub slot: Option<String>,
    /// What the caller asked for.
    pub terms: Terms,
    /// What is to be done, once that is decided.
    pub plan: Option<Plan>,
    /// The settings that it had before, by name; null where it had none of its own.
    pub former_settings: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether it is written down where it has forked from its source.
    pub has_forked: bool,
    /// What the source had set of [`statements::FAST_PATH`], if the split has changed it: null for nothing.
    pub former_source_setting: Option<Option<String>>,
    /// Nodes that are lost for good, of which an operator has said that the split is to end without them.
    pub left_out: Vec<i32>,
}

/// Where a promoted clone has left its source's timeline: all before that position both have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The clone's timeline.
    pub timeline: i32,
    /// The position.
    pub lsn: String,
}

impl Fork {
    /// From what [`statements::FORK`] tells of a server that is not in recovery.
    pub fn parse(text: &str) -> Option<Self> {
        let (timeline, lsn) = text.split_once(' ')?;
        Some(Self { timeline: timeline.parse().ok()?, lsn: lsn.to_owned() })
    }

    /// Writes it down, as SQL.
    pub fn note(&self, nodeid: i32) -> String {
        format!(
            "UPDATE citus_fence.clone SET fork_timeline = {}, fork_lsn = {} WHERE clone_nodeid = {nodeid};",
            self.timeline,
            literal(&self.lsn)
        )
    }
}

/// What the caller of a split asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The row of `pg_dist_rebalance_strategy`, or the default one.
    pub strategy: Option<String>,
    /// How long the clone may take to come near, in s.
    pub catchup_timeout_s: u32,
    /// How long all attempts to hold the writers back may take, in ms.
    pub acquire_timeout_ms: u32,
    /// The longest attempt, in ms.
    pub lock_timeout_ms: u32,
    /// Who waits, to be woken.
    pub requestor: (i32, i32),
}

/// What a split does, as it was prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The clone's node group.
    pub group: i32,
    /// Shards that move, each with the number of its new placement.
    pub moving: Vec<(i64, i64)>,
    /// Shards of reference tables, each with the number of its placement on the clone.
    pub reference: Vec<(i64, i64)>,
    /// Tables of what moves, at the source, as SQL has them.
    pub moving_names: Vec<String>,
    /// Tables of shards that stay; what is left of them on the clone is dropped.
    pub staying_names: Vec<String>,
    /// The source's node group: it may not be in the catalog any more when the split ends.
    #[serde(default)]
    pub source_group: Option<i32>,
    /// Where the source was, for messages.
    #[serde(default)]
    pub source_place: String,
}

impl Replica {
    /// What is prepared on every node.
    pub fn switch_gid(&self) -> String {
        format!("{}_switch", self.gid())
    }

    /// What is prepared on the source besides.
    pub fn seal_gid(&self) -> String {
        format!("{}_seal", self.gid())
    }

    /// Outside of the pattern of Citus' own, or its recovery would end it.
    pub fn gid(&self) -> String {
        format!("citus_fence_clone_{}_{}", self.nodeid, &self.token[..self.token.len().min(8)])
    }

    /// Where it is.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The clone of that number, or `None`.
pub fn find<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    nodeid: i32,
) -> Result<Option<Replica>, CloneError> {
    find_where(waiter, home, &format!("clone_nodeid = {nodeid}"))
}

/// A clone whose split was interrupted.
pub fn find_interrupted<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
) -> Result<Option<Replica>, CloneError> {
    let names: Vec<String> = Step::ALL
        .into_iter()
        .filter(|step| step.is_under_way())
        .map(|step| literal(step.name()))
        .collect();
    find_where(waiter, home, &format!("step IN ({})", names.join(", ")))
}

fn find_where<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    condition: &str,
) -> Result<Option<Replica>, CloneError> {
    let sql = query(&format!(
        "SELECT row_to_json(c)::text AS row FROM citus_fence.clone c WHERE {condition} \
         ORDER BY clone_nodeid LIMIT 1"
    ));
    let reply = ask(waiter, home, "look at the registry of clones", &sql, SHORT)?;
    match reply.last_set()?.value(0, "row") {
        None => Ok(None),
        Some(text) => Ok(Some(parse(text).ok_or_else(|| reply.unexpected("an unknown row"))?)),
    }
}

fn parse(text: &str) -> Option<Replica> {
    let row: serde_json::Value = serde_json::from_str(text).ok()?;
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let number = |key: &str| row[key].as_i64().and_then(|number| i32::try_from(number).ok());
    Some(Replica {
        nodeid: number("clone_nodeid")?,
        host: text("nodename")?,
        port: number("nodeport")?,
        source: number("source_nodeid")?,
        step: Step::parse(&text("step")?)?,
        token: text("token")?,
        slot: text("slot_name"),
        terms: serde_json::from_value(row["terms"].clone()).ok()?,
        plan: match &row["plan"] {
            serde_json::Value::Null => None,
            plan => Some(serde_json::from_value(plan.clone()).ok()?),
        },
        former_settings: row["former_settings"].as_object().cloned(),
        has_forked: row["fork_lsn"].is_string(),
        former_source_setting: row["former_source_setting"]
            .as_array()
            .map(|value| value.first().and_then(|value| value.as_str()).map(str::to_owned)),
        // A registry of before has no such column until the extension is updated.
        left_out: serde_json::from_value::<Option<_>>(row["left_out"].clone())
            .ok()?
            .unwrap_or_default(),
    })
}

/// What a line of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A step.
    Notice,
    /// Something that whoever called has to know.
    Warning,
    /// Something is in the way, and is tried again.
    Trouble,
    /// The split has ended without success.
    Error,
    /// The split has ended.
    Done,
}

impl Kind {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Trouble => "trouble",
            Self::Error => "error",
            Self::Done => "done",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Notice, Self::Warning, Self::Trouble, Self::Error, Self::Done]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A line of the journal, as SQL.
pub fn entry(nodeid: i32, kind: Kind, report: &Report) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or("NULL".to_owned(), literal);
    format!(
        "INSERT INTO citus_fence.clone_journal (clone_nodeid, kind, sqlstate, message, detail, hint) \
         VALUES ({nodeid}, '{}', '{}', {}, {}, {})",
        kind.name(),
        unpack_sqlstate(report.sqlstate as i32),
        literal(&report.message),
        text(&report.detail),
        text(&report.hint),
    )
}

/// The text of a SQLSTATE.
fn unpack_sqlstate(mut packed: i32) -> String {
    (0..5)
        .map(|_| {
            let character = char::from(b'0' + (packed & 0x3f) as u8);
            packed >>= 6;
            character
        })
        .collect()
}

/// Writes SQL to the registry, all of it in one transaction.
pub fn write<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    what: &'static str,
    sql: &str,
) -> Result<(), CloneError> {
    ask(waiter, home, what, &statements::note(sql), statements::JOURNAL_BOUND)?;
    Ok(())
}

/// Writes down that a step begins, with whatever else belongs to that moment; an error if the registry has come to another
/// step than `from` meanwhile.
pub fn advance<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    nodeid: i32,
    from: Step,
    to: Step,
    besides: &str,
) -> Result<(), CloneError> {
    // Where nothing was updated the division fails, and nothing of it all is done.
    let sql = statements::note(&format!(
        "UPDATE citus_fence.clone SET step = '{}', step_since = clock_timestamp() \
          WHERE clone_nodeid = {nodeid} AND step = '{}';\
         SELECT 1 / count(*) FROM citus_fence.clone \
          WHERE clone_nodeid = {nodeid} AND xmin = pg_current_xact_id()::xid;\
         {besides}",
        to.name(),
        from.name()
    ));
    match ask(waiter, home, "note of the next step", &sql, statements::JOURNAL_BOUND) {
        Ok(_) => Ok(()),
        Err(error) if error.sqlstate() == Some("22012") => {
            Err(CloneError::OtherStep { nodeid, step: from })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Fork, Kind, Plan, entry, parse, unpack_sqlstate};
    use crate::report::{Report, pack_sqlstate};
    use pgrx::PgSqlErrorCode;

    #[test]
    fn sqlstates_come_back() {
        assert_eq!(unpack_sqlstate(pack_sqlstate(b"55P03")), "55P03");
        assert_eq!(unpack_sqlstate(pack_sqlstate(b"00000")), "00000");
    }

    #[test]
    fn lines_are_quoted() {
        let report = Report::new(PgSqlErrorCode::ERRCODE_WARNING, "it's").hint("\\");
        assert!(entry(7, Kind::Warning, &report).ends_with("'01000', 'it''s', NULL, E'\\\\')"));
    }

    #[test]
    fn a_fork_is_a_timeline_and_a_position() {
        let fork = Fork { timeline: 2, lsn: "0/5000028".into() };
        assert_eq!(Fork::parse("2 0/5000028"), Some(fork));
        assert_eq!(Fork::parse(""), None);
        assert_eq!(Fork::parse("recovery"), None);
    }

    #[test]
    fn a_plan_of_before_says_nothing_of_its_source() {
        let plan = r#"{"group":3,"moving":[[7,8]],"reference":[],"moving_names":["t_7"],"staying_names":[]}"#;
        let plan: Plan = serde_json::from_str(plan).expect("a plan");
        assert_eq!((plan.group, plan.source_group), (3, None));
    }

    #[test]
    fn a_row_that_is_not_understood_is_none() {
        assert!(parse("{}").is_none());
        let row = r#"{"clone_nodeid":7,"nodename":"h","nodeport":5,"source_nodeid":2,"step":"near",
            "token":"abcdefghij","slot_name":null,"terms":{},"plan":null,"former_settings":null,"former_source_setting":[null],"left_out":[3]}"#;
        let clone = parse(row).expect("a row");
        assert_eq!(clone.switch_gid(), "citus_fence_clone_7_abcdefgh_switch");
        assert_eq!(clone.former_source_setting, Some(None));
        assert_eq!(clone.left_out, [3]);
        assert!(parse(&row.replace("near", "nowhere")).is_none());
        let before = row.replace(r#","left_out":[3]"#, "");
        assert!(parse(&before).expect("a row").left_out.is_empty());
    }
}
