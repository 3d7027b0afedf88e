//! What a node holds, and what a strategy says of it: what a plan is made of.
//!
//! The list of shards ([`Listing::read`]) is one query on this node.  What takes longer is asked beside it
//! ([`ask`]): the sizes, in one query on the source, and the strategy's own functions.  So whoever has asked
//! once and then takes locks reads the list again, and if it is [equal](PartialEq) what was asked still holds.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use pgrx::pg_sys::Oid;
use remote::{Command, Deadline, Session, Target, Waiter, connect_all};

use super::plan::{self, Unit};
use super::plan_error::PlanError;
use crate::citus::is_citus;
use crate::fence::statements;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::text_sql::{self, array};

/// A shard on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// `shardid`.
    pub shardid: u64,
    /// The table it is of.
    pub table: Oid,
    /// What it is called on its node, in quotes where they are needed; with its schema, but for names that
    /// Citus had to shorten, whose schema is left out if it is public.
    pub name: String,
    /// What becomes of it.
    pub kind: Kind,
    /// Whether it has to stay on the source: it, or a sequence of its table, would be empty on a promoted clone; or the
    /// coordinator alone knows where it is, as for tables that are distributed by append or range.
    pub stays: bool,
}

/// What becomes of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a reference table: it is on both nodes.
    Reference,
    /// Of a table that only the coordinator has: it stays.
    Local,
    /// It goes with the others of its unit, which has this place in the listing.
    Distributed(usize),
}

/// All active placements of a node, by `shardid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The shards.
    pub shards: Vec<Shard>,
    /// The shards that move together, as places in `shards`.
    units: Vec<Vec<usize>>,
}

impl Listing {
    /// As the catalog of this node has them now.
    pub fn read(group: i32) -> Result<Self, PlanError> {
        let rows = text_sql::query(&listing_sql(), &[&group.to_string()])?;
        let mut listing = Self { shards: Vec::with_capacity(rows.len()), units: Vec::new() };
        let mut known: HashMap<(String, String), usize> = HashMap::new();
        for row in &rows {
            let [
                Some(shardid),
                Some(table),
                Some(method),
                Some(model),
                Some(colocation),
                min,
                Some(name),
                Some(stays),
            ] = row.as_slice()
            else {
                return Err(PlanError::Corrupt { table: "pg_dist_shard" });
            };
            let corrupt = |_| PlanError::Corrupt { table: "pg_dist_shard" };
            let place = listing.shards.len();
            let kind = match (method.as_str(), model.as_str(), colocation.as_str()) {
                ("n", "t", _) => Kind::Reference,
                ("n", _, "0") => Kind::Local,
                _ => {
                    // What is colocated has the same ranges.
                    let key = match (method.as_str(), colocation.as_str()) {
                        ("h" | "n", colocation) if colocation != "0" => {
                            (colocation.to_owned(), min.clone().unwrap_or_default())
                        }
                        _ => (String::new(), shardid.clone()),
                    };
                    let unit = *known.entry(key).or_insert_with(|| {
                        listing.units.push(Vec::new());
                        listing.units.len() - 1
                    });
                    listing.units[unit].push(place);
                    Kind::Distributed(unit)
                }
            };
            listing.shards.push(Shard {
                shardid: shardid.parse().map_err(corrupt)?,
                table: Oid::from(table.parse::<u32>().map_err(corrupt)?),
                name: name.clone(),
                kind,
                stays: stays == "t",
            });
        }
        Ok(listing)
    }

    /// The shards of a unit; the first of them speaks for it where a function takes one shard.
    fn unit(&self, unit: usize) -> impl Iterator<Item = &Shard> {
        self.units[unit].iter().map(|place| &self.shards[*place])
    }

    fn representatives(&self) -> Vec<String> {
        let first = |unit: &Vec<usize>| self.shards[unit[0]].shardid.to_string();
        self.units.iter().map(first).collect()
    }
}

/// Inner joins onto `pg_class` only: with outer ones some releases of Citus and PostgreSQL fail together.
fn listing_sql() -> String {
    // Citus shortens what would be longer than a name.
    let longer =
        if is_citus() { "pg_catalog.shard_name(s.logicalrelid, s.shardid)" } else { "c.relname" };
    format!(
        "WITH volatile_sequence AS MATERIALIZED (
            SELECT q.oid FROM pg_catalog.pg_class q
             WHERE q.relkind OPERATOR(pg_catalog.=) 'S' AND q.relpersistence OPERATOR(pg_catalog.=) 'u'
        ), loses AS MATERIALIZED (
            SELECT d.refobjid AS oid
              FROM volatile_sequence q
              JOIN pg_catalog.pg_depend d
                ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.objid OPERATOR(pg_catalog.=) q.oid
               AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.deptype OPERATOR(pg_catalog.=) ANY ('{{a,i}}'::\"char\"[])
            UNION
            SELECT a.adrelid
              FROM volatile_sequence q
              JOIN pg_catalog.pg_depend d
                ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.refobjid OPERATOR(pg_catalog.=) q.oid
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
              JOIN pg_catalog.pg_attrdef a ON a.oid OPERATOR(pg_catalog.=) d.objid
        )
        SELECT s.shardid, s.logicalrelid::pg_catalog.oid, p.partmethod, p.repmodel, p.colocationid,
               s.shardminvalue,
               CASE WHEN pg_catalog.octet_length(pg_catalog.concat(c.relname, '_', s.shardid))
                             OPERATOR(pg_catalog.<) 64
                    THEN pg_catalog.format('%I.%I', n.nspname, pg_catalog.concat(c.relname, '_', s.shardid))
                    ELSE {longer} END,
               p.partmethod OPERATOR(pg_catalog.<>) ALL ('{{h,n}}'::\"char\"[])
               OR c.relpersistence OPERATOR(pg_catalog.=) 'u'
               OR EXISTS (SELECT FROM loses l WHERE l.oid OPERATOR(pg_catalog.=) c.oid)
          FROM pg_catalog.pg_dist_placement h
          JOIN pg_catalog.pg_dist_shard s ON s.shardid OPERATOR(pg_catalog.=) h.shardid
          JOIN pg_catalog.pg_dist_partition p
            ON p.logicalrelid::pg_catalog.oid OPERATOR(pg_catalog.=) s.logicalrelid::pg_catalog.oid
          JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) s.logicalrelid::pg_catalog.oid
          JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE h.groupid OPERATOR(pg_catalog.=) $1::int4
           AND h.shardstate OPERATOR(pg_catalog.=) 1
         ORDER BY s.shardid"
    )
}

/// The node that is to be split.
pub struct Source<'s> {
    /// `nodeid`.
    pub nodeid: i32,
    /// `groupid`.
    pub group: i32,
    /// Where it is reached.
    pub target: &'s Target,
}

/// What was asked of the source and of a strategy about a listing.
#[derive(Clone, Debug)]
pub struct Asked {
    sizes: HashMap<u64, u64>,
    unlogged: HashSet<u64>,
    costs: Vec<f64>,
    /// Of each unit: whether the source may keep it, and the clone have it.
    allowed: Vec<(bool, bool)>,
    source_capacity: f64,
    clone_capacity: f64,
}

impl Asked {
    /// Bytes of a shard on the source, with its indexes; `None` for one that was not there.
    pub fn size(&self, shardid: u64) -> Option<u64> {
        self.sizes.get(&shardid).copied()
    }

    /// The units of the listing that this was asked about.
    pub fn units(&self, listing: &Listing) -> Vec<Unit> {
        (0..listing.units.len())
            .map(|unit| {
                let mut shards = listing.unit(unit);
                let stays =
                    shards.any(|shard| shard.stays || self.unlogged.contains(&shard.shardid));
                let (may_stay, may_move) = self.allowed[unit];
                Unit {
                    shards: listing.unit(unit).map(|shard| shard.shardid).collect(),
                    cost: self.costs[unit],
                    may_move: may_move && !stays,
                    may_stay: may_stay || stays,
                }
            })
            .collect()
    }

    /// For each shard of the listing whether it moves.  Reference tables' do not: they are on both nodes.
    pub fn plan(&self, listing: &Listing) -> Vec<bool> {
        let units = self.units(listing);
        let moves = plan::split(&units, self.source_capacity, self.clone_capacity);
        let moving: HashSet<u64> = units
            .iter()
            .zip(moves)
            .filter(|(_, moves)| *moves)
            .flat_map(|(unit, _)| unit.shards.iter().copied())
            .collect();
        listing.shards.iter().map(|shard| moving.contains(&shard.shardid)).collect()
    }
}

/// Asks the source and the strategy (the default one where none is named).
///
/// `clone_nodeid`: what the strategy's functions are told of the clone.  They look nodes up in `pg_dist_node`;
/// for a clone that has no row there, the source's number stands for its machine.
pub fn ask<W: Waiter>(
    waiter: &mut W,
    listing: &Listing,
    source: &Source<'_>,
    clone_nodeid: Option<i32>,
    strategy: Option<&str>,
    connect_timeout: Duration,
) -> Result<Asked, PlanError> {
    let strategy = Strategy::read(strategy)?;
    let (sizes, unlogged) = measure(waiter, listing, source, connect_timeout)?;
    let clone_nodeid = clone_nodeid.unwrap_or(source.nodeid);
    Ok(Asked {
        costs: strategy.costs(listing, &sizes)?,
        allowed: strategy.allowed(listing, source.nodeid, clone_nodeid)?,
        source_capacity: strategy.capacity(source.nodeid)?,
        clone_capacity: strategy.capacity(clone_nodeid)?,
        sizes,
        unlogged,
    })
}

/// What the source may take to tell the sizes of its shards.
const MEASURE_BOUND: Duration = Duration::from_secs(60);

/// Bytes of each shard, and which are unlogged, as the source itself has them.
fn measure<W: Waiter>(
    waiter: &mut W,
    listing: &Listing,
    source: &Source<'_>,
    connect_timeout: Duration,
) -> Result<(HashMap<u64, u64>, HashSet<u64>), PlanError> {
    let _descriptor = ReservedDescriptors::acquire(1).ok_or(PlanError::NoDescriptors)?;
    let deadline = Deadline::after(waiter, connect_timeout);
    let mut session: Session =
        connect_all(waiter, std::slice::from_ref(source.target), deadline).remove(0)?;
    let mut run = |waiter: &mut W, command: Command<'_>| {
        let deadline = Deadline::after(waiter, MEASURE_BOUND);
        session.run(waiter, command, deadline)
    };
    // Citus hides shards; for names that it has shortened see Shard::name.
    let begin = format!(
        "{}; SET LOCAL statement_timeout = '55s'; SET LOCAL search_path = public;
         SET LOCAL citus.override_table_visibility = off;
         SELECT groupid FROM pg_catalog.pg_dist_local_group",
        statements::begin_helper(statements::HELPER_IDLE_MS)
    );
    let answered: i32 = run(waiter, Command::new("look at the node", begin))?.parse_single()?;
    if answered != source.group {
        let node = source.target.node.to_string();
        return Err(PlanError::OtherNode { node, group: source.group, answered });
    }
    let ids: Vec<String> = listing.shards.iter().map(|shard| shard.shardid.to_string()).collect();
    let names: Vec<&str> = listing.shards.iter().map(|shard| shard.name.as_str()).collect();
    // A table that is dropped meanwhile has no size.  Names are public's here and the role is a superuser's, so
    // nothing is left to the search path but the shards.
    let command = Command::new(
        "measure shards",
        "SELECT s.shardid, pg_catalog.pg_total_relation_size(c.oid), c.relpersistence
           FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.int8[]),
                           pg_catalog.unnest($2::pg_catalog.text[])) AS s (shardid, name)
           JOIN pg_catalog.pg_class c
             ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(s.name)::pg_catalog.oid",
    )
    .with_param(array(&ids))
    .with_param(array(&names));
    let reply = run(waiter, command)?;
    let (mut sizes, mut unlogged) = (HashMap::new(), HashSet::new());
    for row in &reply.last_set()?.rows {
        let [Some(shardid), size, Some(persistence)] = row.as_slice() else {
            return Err(reply.unexpected("NULL where a value was expected").into());
        };
        let shardid: u64 = shardid.parse().map_err(|_| reply.unexpected("no number of a shard"))?;
        if let Some(size) = size.as_ref().and_then(|size| size.parse().ok()) {
            sizes.insert(shardid, size);
        }
        if persistence == "u" {
            unlogged.insert(shardid);
        }
    }
    Ok((sizes, unlogged))
}

/// A row of `pg_dist_rebalance_strategy`, its functions by their names with schema, in quotes.
struct Strategy {
    cost: String,
    capacity: String,
    allowed: String,
}

const COST_IS_1: &str = "pg_catalog.citus_shard_cost_1";
const COST_IS_SIZE: &str = "pg_catalog.citus_shard_cost_by_disk_size";
const CAPACITY_IS_1: &str = "pg_catalog.citus_node_capacity_1";
const ALLOWED_EVERYWHERE: &str = "pg_catalog.citus_shard_allowed_on_node_true";

impl Strategy {
    fn read(name: Option<&str>) -> Result<Self, PlanError> {
        let function = |column: &str| {
            format!(
                "(SELECT pg_catalog.format('%I.%I', n.nspname, f.proname)
                    FROM pg_catalog.pg_proc f
                    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) f.pronamespace
                   WHERE f.oid OPERATOR(pg_catalog.=) r.{column}::pg_catalog.oid)"
            )
        };
        let rows = text_sql::query(
            &format!(
                "SELECT r.name, r.default_strategy, {}, {}, {}
                   FROM pg_catalog.pg_dist_rebalance_strategy r ORDER BY r.name",
                function("shard_cost_function"),
                function("node_capacity_function"),
                function("shard_allowed_on_node_function")
            ),
            &[],
        )?;
        let is_it = |row: &&Vec<Option<String>>| match name {
            Some(name) => row[0].as_deref() == Some(name),
            None => row[1].as_deref() == Some("t"),
        };
        let Some(found) = rows.iter().find(is_it) else {
            let known = rows.iter().filter_map(|row| row[0].clone()).collect();
            return Err(match name {
                Some(name) => PlanError::UnknownStrategy { name: name.to_owned(), known },
                None => PlanError::NoDefaultStrategy { known },
            });
        };
        let [_, _, Some(cost), Some(capacity), Some(allowed)] = found.as_slice() else {
            return Err(PlanError::Corrupt { table: "pg_dist_rebalance_strategy" });
        };
        let (cost, capacity, allowed) = (cost.clone(), capacity.clone(), allowed.clone());
        Ok(Self { cost, capacity, allowed })
    }

    /// What each unit costs.
    fn costs(&self, listing: &Listing, sizes: &HashMap<u64, u64>) -> Result<Vec<f64>, PlanError> {
        match self.cost.as_str() {
            COST_IS_1 => Ok(vec![1.0; listing.units.len()]),
            COST_IS_SIZE => {
                let base = base_cost()?;
                let size = |shard: &Shard| sizes.get(&shard.shardid).copied().unwrap_or(0);
                let of = |unit| base + listing.unit(unit).map(size).sum::<u64>() as f64;
                Ok((0..listing.units.len()).map(of).collect())
            }
            function => {
                let shards = listing.representatives();
                let rows = text_sql::query(
                    &format!(
                        "SELECT s.shardid, {function}(s.shardid)::float8
                           FROM pg_catalog.unnest($1::int8[]) WITH ORDINALITY AS s (shardid, place)
                          ORDER BY s.place"
                    ),
                    &[&array(&shards)],
                )?;
                rows.iter().map(|row| Self::number(function, "shard", row)).collect()
            }
        }
    }

    fn capacity(&self, nodeid: i32) -> Result<f64, PlanError> {
        if self.capacity == CAPACITY_IS_1 {
            return Ok(1.0);
        }
        let function = &self.capacity;
        let rows = text_sql::query(
            &format!("SELECT $1, {function}($1::int4)::float8"),
            &[&nodeid.to_string()],
        )?;
        let row = rows.first().ok_or(PlanError::Corrupt { table: "pg_dist_node" })?;
        Self::number(function, "node", row)
    }

    /// A number that can be reckoned with.
    fn number(
        function: &str,
        what: &'static str,
        row: &[Option<String>],
    ) -> Result<f64, PlanError> {
        let value = row.get(1).cloned().flatten();
        let number = value.as_ref().and_then(|value| value.parse::<f64>().ok());
        match number.filter(|number| number.is_finite() && *number >= 0.0) {
            Some(number) => Ok(number),
            None => Err(PlanError::BadAnswer {
                function: function.to_owned(),
                of: format!("{what} {}", row[0].as_deref().unwrap_or_default()),
                value: value.unwrap_or_else(|| "NULL".to_owned()),
            }),
        }
    }

    /// Of each unit: whether it is allowed on the source, and on the clone.
    fn allowed(
        &self,
        listing: &Listing,
        source: i32,
        clone: i32,
    ) -> Result<Vec<(bool, bool)>, PlanError> {
        if self.allowed == ALLOWED_EVERYWHERE {
            return Ok(vec![(true, true); listing.units.len()]);
        }
        let function = &self.allowed;
        let shards = listing.representatives();
        let rows = text_sql::query(
            &format!(
                "SELECT s.shardid, {function}(s.shardid, $2::int4), {function}(s.shardid, $3::int4)
                   FROM pg_catalog.unnest($1::int8[]) WITH ORDINALITY AS s (shardid, place)
                  ORDER BY s.place"
            ),
            &[&array(&shards), &source.to_string(), &clone.to_string()],
        )?;
        let is = |row: &[Option<String>], column: usize| match row[column].as_deref() {
            Some(value) => Ok(value == "t"),
            None => Err(PlanError::BadAnswer {
                function: function.clone(),
                of: format!("shard {}", row[0].as_deref().unwrap_or_default()),
                value: "NULL".to_owned(),
            }),
        };
        rows.iter().map(|row| Ok((is(row, 1)?, is(row, 2)?))).collect()
    }
}

/// What Citus adds to the size of each group of shards, so that empty ones are shared out as well.
fn base_cost() -> Result<f64, PlanError> {
    let rows = text_sql::query(
        "SELECT COALESCE(pg_catalog.pg_size_bytes(pg_catalog.current_setting(
                'citus.rebalancer_by_disk_size_base_cost', true)), 0)",
        &[],
    )?;
    let bytes = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
    Ok(bytes.unwrap_or(0.0))
}
