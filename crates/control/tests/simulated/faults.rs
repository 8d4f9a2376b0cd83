//! The faults of a run: which, when, for how long; by the seed.

use crate::dice::Dice;
use crate::world::Mark;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ServerKilled,
    GuardKilled,
    ServerAndGuardKilled,
    ServerSuspended,
    ClientHangsUp,
    PauseRefused,
    InstanceHangs,
    InstanceFrozen,
    PauseLate,
    GateLeftOpen,
    InstanceRestarts,
    UnpauseFails,
    ConnectionsCut,
    Partition,
    DnsGains,
    DnsLoses,
    DnsFails,
    SnapshotFails,
    SnapshotHangs,
    SnapshotSkips,
    AgentDies,
    DatabaseLocked,
    UnknownWriter,
    JmxCut,
}

impl Kind {
    pub(crate) const ALL: [Self; 24] = [
        Self::ServerKilled,
        Self::GuardKilled,
        Self::ServerAndGuardKilled,
        Self::ServerSuspended,
        Self::ClientHangsUp,
        Self::PauseRefused,
        Self::InstanceHangs,
        Self::InstanceFrozen,
        Self::PauseLate,
        Self::GateLeftOpen,
        Self::InstanceRestarts,
        Self::UnpauseFails,
        Self::ConnectionsCut,
        Self::Partition,
        Self::DnsGains,
        Self::DnsLoses,
        Self::DnsFails,
        Self::SnapshotFails,
        Self::SnapshotHangs,
        Self::SnapshotSkips,
        Self::AgentDies,
        Self::DatabaseLocked,
        Self::UnknownWriter,
        Self::JmxCut,
    ];

    /// The behaviour of an instance, which has to be set before it is asked.
    fn is_behaviour(self) -> bool {
        matches!(
            self,
            Self::PauseRefused
                | Self::PauseLate
                | Self::GateLeftOpen
                | Self::SnapshotFails
                | Self::SnapshotHangs
                | Self::SnapshotSkips
                | Self::DnsLoses
        )
    }

    /// Between the server and an instance.
    fn is_of_a_line(self) -> bool {
        matches!(self, Self::Partition | Self::InstanceFrozen | Self::InstanceHangs)
    }

    /// How long it lasts, in milliseconds.
    fn lasts(self, dice: &mut Dice) -> u64 {
        match self {
            Self::ServerKilled | Self::ServerAndGuardKilled => dice.between(200, 20_000),
            Self::ServerSuspended => match dice.percent(60) {
                true => dice.between(100, 4000),
                false => dice.between(4000, 40_000),
            },
            Self::DatabaseLocked => dice.between(300, 30_000),
            Self::InstanceHangs | Self::InstanceFrozen | Self::Partition => dice.between(200, 15_000),
            Self::DnsFails | Self::JmxCut => dice.between(200, 3000),
            Self::UnknownWriter => dice.between(100, 3000),
            _ => dice.between(5000, 15_000),
        }
    }
}

/// One fault of a plan.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) when: (Mark, u64),
    pub(crate) lasts: u64,
    /// Which of those that it can hit.
    pub(crate) victim: u64,
}

/// What a run is.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) apps: usize,
    /// The longest pause, in milliseconds.
    pub(crate) longest: u64,
    pub(crate) backups: usize,
    pub(crate) keep_unproven: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::of(seed, "plan");
        let count = 1 + dice.below(3);
        // Each kind in its turn, and others of chance.
        let first = Kind::ALL[usize::try_from(seed % Kind::ALL.len() as u64).unwrap()];
        let more = (1..count).map(|_| Kind::ALL[dice.below(Kind::ALL.len())]).collect::<Vec<_>>();
        let faults = std::iter::once(first).chain(more).map(|kind| Fault::of(kind, &mut dice)).collect();
        Self {
            nodes: 1 + dice.below(6),
            apps: 1 + dice.below(if dice.clone().percent(30) { 12 } else { 4 }),
            longest: dice.between(1500, 5000),
            backups: 1 + usize::from(dice.percent(25)),
            keep_unproven: dice.percent(20),
            faults,
        }
    }
}

impl Fault {
    fn of(kind: Kind, dice: &mut Dice) -> Self {
        let when = match dice.below(10) {
            _ if kind.is_behaviour() => (Mark::Asked, 0),
            // When the Pause is under way.
            0..5 if kind.is_of_a_line() => (Mark::Guarded, dice.between(0, 130)),
            0 => (Mark::Asked, dice.between(0, 1500)),
            1 => (Mark::Guarded, dice.between(0, 150)),
            2 => (Mark::Unpaused, dice.between(0, 700)),
            3..6 => (Mark::Snapshot, dice.between(0, 150)),
            _ => (Mark::Paused, dice.between(0, 500)),
        };
        Self { kind, when, lasts: kind.lasts(dice), victim: dice.between(0, 1000) }
    }
}
