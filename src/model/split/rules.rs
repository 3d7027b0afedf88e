//! The rules of the split, each of which can be taken out.

/// What the design (and the code) rests on. The comment says what is done where the rule is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Writers are held on every node. Out: on the coordinator alone.
    EveryNode,
    /// The shard's table at the source is locked too. Out: it is not.
    Seal,
    /// What comes to the old table afterwards is refused. Out: the lock on it ends with the switch.
    SealStays,
    /// The switch is prepared on every node before the promotion. Out: its transactions stay open until they commit.
    PreparedFirst,
    /// The clone replays up to where its source was once all writers were held. Out: to where it was before.
    TargetUnderLocks,
    /// The clone takes no client before it is itself. Out: it takes them from its promotion on.
    GateClosed,
    /// The clone's daemon recovers nothing before the clone is itself. Out: from its promotion on.
    Harmless,
    /// That it is promoted is written down before it is told to. Out: afterwards.
    WrittenFirst,
    /// No node takes the new metadata before the clone is itself. Out: once it is promoted.
    IdentityFirst,
    /// What has moved has a new placement id. Out: a session that has used the shard goes on by its old connection.
    NewPlacementIds,
    /// Nodes, and with them DDL, are locked on the coordinator until the switch. Out: DDL goes on.
    NodesLocked,
    /// The table's lock at the source waits for what is prepared there. Out: for what is in flight alone.
    PreparedDrained,
    /// Who goes back looks first whether a node has the new metadata already. Out: the registry is believed.
    LooksAhead,
    /// A clone that is promoted is not opened by the way back. Out: it gets everything back that it had.
    PromotedStaysClosed,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    without: [Option<Rule>; 2],
}

impl Rules {
    /// The design.
    pub const ALL: Self = Self { without: [None; 2] };

    /// The design but for one rule.
    pub const fn without(rule: Rule) -> Self {
        Self { without: [Some(rule), None] }
    }

    /// The design but for two rules, of which either would do.
    pub const fn without_both(one: Rule, other: Rule) -> Self {
        Self { without: [Some(one), Some(other)] }
    }

    /// Whether the rule is in force.
    pub fn has(self, rule: Rule) -> bool {
        !self.without.contains(&Some(rule))
    }
}
