//! A pause of many instances: asked for, confirmed, checked, ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use futures::future::join_all;
use tokio::time::Instant;

use crate::admin::{Connection, Standing};
use crate::client::CONNECT_LIMIT;
use crate::dial::Dial;
use crate::error::{InstanceError, Problem};
use crate::unpausing::{Unpaused, Unpausing};

/// How much later than its own limit an instance may close its gate: the Pause travels, and clocks differ.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// What is left for the way back, and for the question whether it is true.
const SHORTEST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Instances that were asked to pause. The connections are open as long as this lives.
pub struct Pausing {
    dial: Arc<dyn Dial>,
    members: Vec<Member>,
}

struct Member {
    instance: Instance,
    /// On which it was asked; it is never another one. `None` when it was not asked.
    connection: Option<Connection>,
    /// A Pause without an answer may take effect until then.
    late_until: Instant,
    outcome: Result<Confirmed, Problem>,
}

/// An instance has said that it is paused.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    /// From the beginning on.
    within: Duration,
    /// Whether it can be asked (the newer generation), or only be seen to be the same process.
    tells: bool,
}

impl Pausing {
    pub(crate) async fn begin(dial: Arc<dyn Dial>, instances: &[Instance], deadline: Instant) -> Self {
        let asked = instances.iter().map(|instance| ask(dial.as_ref(), instance, deadline));
        let members = join_all(asked).await;
        Self { dial, members }
    }

    /// Those that did not say that they are paused; empty when all are.
    #[must_use]
    pub fn failures(&self) -> Vec<InstanceError> {
        let failed = self.members.iter().filter_map(|member| Some((member, member.outcome.as_ref().err()?)));
        failed.map(|(member, problem)| InstanceError::new(&member.instance, problem.clone())).collect()
    }

    /// How long each took to say so, in the order of the request; `None` for those that did not.
    #[must_use]
    pub fn answered_within(&self) -> Vec<Option<Duration>> {
        let within = |member: &Member| member.outcome.as_ref().ok().map(|confirmed| confirmed.within);
        self.members.iter().map(within).collect()
    }

    /// Asks all at once whether they are still paused, each on the connection on which it answered the Pause. One of the
    /// older generation cannot tell: there it is an answer on that connection that counts. Empty when all are.
    pub async fn check(&self, within: Duration) -> Vec<InstanceError> {
        let check = async |member: &Member| {
            let problem = member.check(within).await.err();
            problem.map(|problem| InstanceError::new(&member.instance, problem))
        };
        join_all(self.members.iter().map(check)).await.into_iter().flatten().collect()
    }

    /// Unpauses all, first on those connections, until each has acknowledged it or `within` has passed; what came of
    /// each, in the order of the request. See [`Unpaused`] for the rule.
    pub async fn unpause(&self, within: Duration) -> Vec<Result<Unpaused, InstanceError>> {
        let deadline = Instant::now() + within;
        let unpausing = |member| self.unpausing(member, deadline).run();
        join_all(self.members.iter().map(unpausing)).await
    }

    fn unpausing<'a>(&'a self, member: &'a Member, deadline: Instant) -> Unpausing<'a> {
        Unpausing {
            dial: self.dial.as_ref(),
            instance: &member.instance,
            connection: member.connection.clone(),
            late_until: member.late_until,
            deadline,
        }
    }
}

impl Member {
    async fn check(&self, within: Duration) -> Result<(), Problem> {
        let (Some(connection), Ok(confirmed)) = (&self.connection, &self.outcome) else {
            return Err(self.outcome.as_ref().err().cloned().unwrap_or(Problem::GateOpen));
        };
        match connection.standing(within).await? {
            Standing::Paused => Ok(()),
            Standing::Untold if !confirmed.tells => Ok(()),
            Standing::Open | Standing::Untold => Err(Problem::GateOpen),
        }
    }
}

/// Pauses one instance, and asks it whether it is true.
async fn ask(dial: &dyn Dial, instance: &Instance, deadline: Instant) -> Member {
    let begun = Instant::now();
    let member = |connection, late_until, outcome| Member {
        instance: instance.clone(),
        connection,
        late_until,
        outcome,
    };
    let connection = match Connection::open(dial, instance, deadline.min(begun + CONNECT_LIMIT)).await {
        Ok(connection) => connection,
        Err(problem) => return member(None, begun, Err(problem)),
    };
    let sent = Instant::now();
    let left = deadline - sent;
    // This process may have been stopped until now: whoever was to end the pause has done so.
    if left.is_zero() {
        let late = io::Error::new(io::ErrorKind::TimedOut, "no time is left to pause it");
        return member(Some(connection), sent, Err(Problem::unreachable(late)));
    }
    let wait = without_rest(left);
    let paused = connection.pause(wait, left).await;
    let late_until = match &paused {
        Err(problem) if !problem.is_settled() => sent + wait + LATE,
        _ => sent,
    };
    let outcome = match paused {
        Ok(()) => confirm(&connection, begun, deadline).await,
        Err(problem) => Err(problem),
    };
    member(Some(connection), late_until, outcome)
}

/// An instance that answers Pause and lets requests through all the same is not paused.
async fn confirm(connection: &Connection, begun: Instant, deadline: Instant) -> Result<Confirmed, Problem> {
    let standing = connection.standing(deadline - Instant::now()).await?;
    match standing {
        Standing::Open => Err(Problem::GateOpen),
        _ => Ok(Confirmed { within: begun.elapsed(), tells: standing == Standing::Paused }),
    }
}

/// For how long the instance may wait for its requests, when there is so much time in all.
fn without_rest(left: Duration) -> Duration {
    let rest = (left / 10).clamp(SHORTEST_REST, LONGEST_REST);
    left.saturating_sub(rest).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_gets_somewhat_less_time_than_there_is() {
        for (left, wait) in [(30_000, 29_000), (5000, 4500), (100, 50), (40, 1), (0, 1)] {
            assert_eq!(without_rest(Duration::from_millis(left)), Duration::from_millis(wait), "{left}");
        }
    }
}
