//! What is on the source, and what of it moves.

use std::collections::HashSet;

use pgrx::PgSqlErrorCode;
use remote::{RemoteError, Reply, Session, Waiter};

use super::error::CloneError;
use super::links::{Map, SHORT, ask, connect_timeout};
use super::shards::{self, Listing, Source};
use super::{statements, worker};
use crate::fence::FenceError;
use crate::report::Report;

/// What a shard is to a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a distributed table, or the one shard of a tenant's table: it may move.
    Distributed,
    /// Of a reference table: on both sides.
    Reference,
    /// Of a table that Citus knows and that is on the coordinator alone: it stays.
    Local,
}

/// A shard on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// `shardid`.
    pub id: i64,
    /// Its table, as SQL has it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What Citus' own moves lock.
    pub lock_id: i64,
    /// Whether other nodes have copies of it.
    pub has_copies: bool,
}

/// Reads the answer to [`statements::inventory`].
pub fn read(reply: &Reply) -> Result<Vec<Placed>, RemoteError> {
    let set = reply.last_set()?;
    (0..set.rows.len())
        .map(|row| {
            let text = |column| set.value(row, column);
            let number = |column| text(column)?.parse::<i64>().ok();
            let one = || {
                Some(Placed {
                    id: number("shardid")?,
                    name: text("name")?.to_owned(),
                    kind: match text("kind")? {
                        "reference" => Kind::Reference,
                        "local" => Kind::Local,
                        "distributed" => Kind::Distributed,
                        _ => return None,
                    },
                    lock_id: number("lock_id")?,
                    has_copies: text("has_copies")? == "t",
                })
            };
            one().ok_or_else(|| reply.unexpected("a shard of an unknown kind"))
        })
        .collect()
}

/// What is on the source, and what of it moves.
pub struct Inventory {
    placed: Vec<Placed>,
    moving: HashSet<i64>,
}

impl Inventory {
    /// Asks the coordinator what there is, the source how large it is, and the strategy what of it moves.
    pub fn weigh<W: Waiter>(
        waiter: &mut W,
        home: &mut Session,
        map: &Map,
        strategy: Option<&str>,
    ) -> Result<Self, CloneError> {
        let is_citus = map.roster.is_citus();
        let node = &map.roster.nodes()[map.source];
        let sql =
            statements::query_shards(is_citus, &statements::inventory(node.groupid, is_citus));
        let placed = read(&ask(waiter, home, "read the shards", &sql, SHORT)?)?;
        let source = Source {
            nodeid: node.nodeid,
            group: node.groupid,
            target: &map.roster.targets()[map.source],
        };
        let (shards, moves) = worker::locally(|| {
            let listing = Listing::read(source.group)?;
            let asked = shards::ask(waiter, &listing, &source, None, strategy, connect_timeout())?;
            // No row is a failure, and never "nothing there".
            if let Some(shard) =
                listing.shards.iter().find(|shard| asked.size(shard.shardid).is_none())
            {
                return Err(missing(&shard.name, &source.target.node.to_string()));
            }
            let moves = asked.plan(&listing);
            Ok((listing.shards, moves))
        })?;
        let known: Vec<i64> = shards.iter().map(|shard| shard.shardid.cast_signed()).collect();
        if !placed.iter().map(|shard| shard.id).eq(known.iter().copied()) {
            return Err(CloneError::Changed);
        }
        let moving = known.into_iter().zip(moves).filter(|(_, moves)| *moves);
        Ok(Self { placed, moving: moving.map(|(shard, _)| shard).collect() })
    }

    /// Whether this is still what there is.
    pub fn is_still(&self, placed: &[Placed]) -> bool {
        self.placed == placed
    }

    /// Shards of reference tables.
    pub fn reference(&self) -> Vec<&Placed> {
        self.placed.iter().filter(|shard| shard.kind == Kind::Reference).collect()
    }

    /// What is held first on the coordinator, by the number of the shard: whoever writes to more than one copy locks the list of
    /// nodes there *after* the shard.
    pub fn first(&self) -> Vec<&Placed> {
        let is_first = |shard: &&Placed| {
            shard.kind == Kind::Reference || (shard.has_copies && self.moving.contains(&shard.id))
        };
        self.placed.iter().filter(is_first).collect()
    }

    /// What Citus' own moves lock, of all that could move.
    pub fn lock_ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.placed.iter().map(|shard| shard.lock_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Shards that move, by their number.
    pub fn moving(&self) -> Vec<&Placed> {
        self.placed.iter().filter(|shard| self.moving.contains(&shard.id)).collect()
    }

    /// Tables of which the clone has a copy that it must not keep.
    pub fn staying_names(&self) -> Vec<String> {
        self.placed
            .iter()
            .filter(|shard| shard.kind != Kind::Reference && !self.moving.contains(&shard.id))
            .map(|shard| shard.name.clone())
            .collect()
    }
}

fn missing(shard: &str, node: &str) -> CloneError {
    let report = Report::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("shard {shard} is not on {node}"),
    )
    .detail("The catalog says that it is there.");
    CloneError::Fence(FenceError::Local(report))
}
