//! What a block's requestor knows of the nodes, handed to the worker through shared memory: so the worker has
//! asked for its connections before it has a session of its own, and the nodes get theirs ready meanwhile.
//!
//! It is a start and no more: the list of nodes that counts is the one that is read under the locks, and where
//! nothing was handed over the worker reads it all itself.

use std::time::Duration;

use pgrx::pg_sys;

use super::HOLDER_NAME;
use super::error::BlockError;
use super::state::{Terms, Token};
use crate::citus::{self, Dialer, Roster};
use crate::fence::FenceError;
use crate::guc;
use crate::pg::shmem::{Slots, shareable};
use crate::report::Report;

/// The nodes as the catalog has them now, in a transaction.
pub fn read(terms: &Terms) -> Result<Roster, FenceError> {
    citus::fence_relations()?;
    let roster = Roster::read(Dialer {
        role: pg_sys::Oid::from(terms.owner),
        application_name: HOLDER_NAME.to_owned(),
        connect_timeout: Duration::from_millis(terms.connect_timeout_ms as u64),
    })?;
    let (count, max) = (roster.nodes().len(), guc::MAX_NODES.get() as usize);
    if count > max {
        let error = BlockError::TooManyNodes { count, max };
        return Err(FenceError::Local(Report::from(&error)));
    }
    Ok(roster)
}

/// What lies in a slot, and for which block.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    generation: u64,
    length: u32,
}

shareable! { Head }

impl Head {
    const NOTHING: Self = Self { generation: 0, length: 0 };
}

/// Bytes per slot: enough for some 40 nodes.  A larger cluster's worker reads the tables itself.
const ROOM: usize = 16 * 1024;

/// A slot per block, as in the control block, under a lock of its own.
pub static HANDOVERS: Slots<Head, u8> =
    Slots::new(c"citus_fence handovers", sizes, (Head::NOTHING, 0));

fn sizes() -> (usize, usize) {
    (guc::MAX_BLOCKS.get().max(1) as usize, ROOM)
}

/// While it lives, the worker of the block can take it.
pub struct Offer(Token);

impl Offer {
    /// Puts it there; nothing where it does not fit.
    pub fn put(token: Token, roster: &Roster) -> Self {
        let bytes = serde_json::to_vec(roster).unwrap_or_default();
        if bytes.len() <= ROOM
            && let Some(mut slots) = HANDOVERS.lock()
        {
            slots.rows(token.slot as usize)[..bytes.len()].copy_from_slice(&bytes);
            *slots.slot(token.slot as usize) =
                Head { generation: token.generation, length: bytes.len() as u32 };
        }
        Self(token)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        take(self.0);
    }
}

/// Takes what was handed over for this block, if nobody has yet.
pub fn take(token: Token) -> Option<Roster> {
    let mut bytes = Vec::with_capacity(ROOM);
    let mut slots = HANDOVERS.lock()?;
    let head = std::mem::replace(slots.slot(token.slot as usize), Head::NOTHING);
    let is_ours = head.generation == token.generation;
    if is_ours {
        let rows = &mut slots.rows(token.slot as usize)[..(head.length as usize).min(ROOM)];
        bytes.extend_from_slice(rows);
        // There may be passwords in it.
        rows.fill(0);
    } else {
        *slots.slot(token.slot as usize) = head;
    }
    drop(slots);
    serde_json::from_slice(&bytes).ok()
}
