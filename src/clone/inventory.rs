//! What is on the source, and what of it moves.

use std::collections::BTreeMap;

use remote::{RemoteError, Reply, Session, Waiter};

use super::error::CloneError;
use super::links::{SHORT, ask};
use super::plan::{Unit, split};
use super::statements::{self, literal, query};
use crate::fence::FenceError;

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
    /// Its colocation group, or its table where it has none.
    pub group: i64,
    /// Its place among the shards of its table.
    pub position: i64,
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
                    group: match number("colocationid")? {
                        0 => -number("relation")?,
                        group => group,
                    },
                    position: number("position")?,
                })
            };
            one().ok_or_else(|| reply.unexpected("a shard of an unknown kind"))
        })
        .collect()
}

/// For each unit whether it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides(Vec<bool>);

/// What is on the source, with what it weighs.
pub struct Inventory {
    placed: Vec<Placed>,
    /// Which shards move together, by their place in `placed`.
    members: Vec<Vec<usize>>,
    units: Vec<Unit>,
    capacities: (f64, f64),
}

impl Inventory {
    /// Asks the coordinator what there is, and the source how large it is.
    pub fn weigh<W: Waiter>(
        waiter: &mut W,
        home: &mut Session,
        source: &mut Session,
        source_group: i32,
        is_citus: bool,
        strategy: Option<&str>,
    ) -> Result<Self, CloneError> {
        let by_count = is_by_count(waiter, home, strategy)?;
        let sql =
            statements::query_shards(is_citus, &statements::inventory(source_group, is_citus));
        let placed = read(&ask(waiter, home, "read the shards", &sql, SHORT)?)?;
        let names: Vec<String> = placed.iter().map(|shard| shard.name.clone()).collect();
        let sql = statements::query_shards(is_citus, &statements::sizes(&names));
        let reply = ask(waiter, source, "read the sizes of the shards", &sql, SHORT)?;
        let set = reply.last_set()?;
        let mut units: BTreeMap<(i64, i64), (Vec<usize>, f64, bool)> = BTreeMap::new();
        for (row, shard) in placed.iter().enumerate() {
            if shard.kind != Kind::Distributed {
                continue;
            }
            // No row is a failure, and never "nothing there".
            let size: f64 = set
                .value(row, "size")
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| missing(&reply, shard))?;
            let is_logged = set.value(row, "unlogged") == Some("f");
            let unit = units.entry((shard.group, shard.position)).or_insert((vec![], 0.0, true));
            unit.0.push(row);
            unit.1 += size;
            // On a promoted replica an unlogged table is empty.
            unit.2 &= is_logged;
        }
        let (mut members, mut list) = (Vec::new(), Vec::new());
        for (shards, size, is_logged) in units.into_values() {
            list.push(Unit {
                shards: shards.iter().map(|shard| placed[*shard].id as u64).collect(),
                cost: if by_count { 1.0 } else { size },
                may_move: is_logged,
                may_stay: true,
            });
            members.push(shards);
        }
        Ok(Self { placed, members, units: list, capacities: (1.0, 1.0) })
    }

    /// Which units go.
    pub fn sides(&self) -> Sides {
        Sides(split(&self.units, self.capacities.0, self.capacities.1))
    }

    /// Whether this is still what there is.
    pub fn is_still(&self, placed: &[Placed]) -> bool {
        self.placed == placed
    }

    /// Shards of reference tables.
    pub fn reference(&self) -> Vec<&Placed> {
        self.placed.iter().filter(|shard| shard.kind == Kind::Reference).collect()
    }

    /// What Citus' own moves lock, of all that could move.
    pub fn lock_ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.placed.iter().map(|shard| shard.lock_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Shards that move, by their number.
    pub fn moving(&self, sides: &Sides) -> Vec<&Placed> {
        let mut moving: Vec<&Placed> = self
            .members
            .iter()
            .zip(&sides.0)
            .filter(|(_, moves)| **moves)
            .flat_map(|(members, _)| members.iter().map(|shard| &self.placed[*shard]))
            .collect();
        moving.sort_unstable_by_key(|shard| shard.id);
        moving
    }

    /// Tables of which the clone has a copy that it must not keep.
    pub fn staying_names(&self, sides: &Sides) -> Vec<String> {
        let moving: Vec<i64> = self.moving(sides).iter().map(|shard| shard.id).collect();
        self.placed
            .iter()
            .filter(|shard| {
                shard.kind != Kind::Reference && moving.binary_search(&shard.id).is_err()
            })
            .map(|shard| shard.name.clone())
            .collect()
    }
}

fn missing(reply: &Reply, shard: &Placed) -> CloneError {
    let mut error = crate::report::Report::new(
        pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("shard {} is not on {}", shard.name, reply.node),
    );
    error.detail = Some("The catalog says that it is there.".into());
    CloneError::Fence(FenceError::Local(error))
}

/// Whether the strategy counts shards; otherwise it weighs them.
fn is_by_count<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    strategy: Option<&str>,
) -> Result<bool, CloneError> {
    let condition = match strategy {
        Some(name) => format!("name = {}", literal(name)),
        None => "default_strategy".to_owned(),
    };
    let sql = query(&format!(
        "SELECT shard_cost_function::text AS cost FROM pg_dist_rebalance_strategy WHERE {condition}"
    ));
    let reply = ask(waiter, home, "read the rebalance strategy", &sql, SHORT)?;
    match (reply.last_set()?.value(0, "cost"), strategy) {
        (Some(cost), _) => Ok(cost.contains("citus_shard_cost_1")),
        (None, None) => Ok(false),
        (None, Some(name)) => Err(CloneError::NoSuchStrategy { name: name.to_owned() }),
    }
}
