//! A pause of many instances: asked for, confirmed, checked, ended.

use std::io;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::admin::{Connection, Standing, Way};
use crate::client::CONNECT_LIMIT;
use crate::error::{InstanceError, Problem};
use crate::unpausing::{Unpaused, Unpausing};

/// How much later than its own limit an instance may close its gate: the Pause travels, and clocks differ.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// When one has failed, the others are not waited for; but one whose answer is known needs no late Unpause.
const GRACE: Duration = Duration::from_millis(500);
/// What is left for the way back, and for the question whether it is true.
const SHORTEST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Instances that were asked to pause. The connections are open as long as this lives.
pub struct Pausing {
    way: Way,
    asked_at: Instant,
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
    /// First the connections: nobody is asked before all are open. The first failure ends it, so that nobody stays
    /// paused for the sake of those that have not answered yet.
    pub(crate) async fn begin(way: Way, instances: &[Instance], deadline: Instant) -> Self {
        let begun = Instant::now();
        let limit = deadline.min(begun + CONNECT_LIMIT);
        let opened = instances.iter().map(|instance| Connection::open(&way, instance, limit));
        let opened = join_all(opened).await;
        let is_open = opened.iter().all(Result::is_ok);
        let members = instances.iter().zip(opened).map(|(instance, opened)| {
            let (connection, problem) = match opened {
                Ok(connection) => (Some(connection), Problem::GivenUp),
                Err(problem) => (None, problem),
            };
            // Of those that are not asked nothing can come late.
            Member { instance: instance.clone(), connection, late_until: begun, outcome: Err(problem) }
        });
        let mut pausing = Self { way, asked_at: begun, members: members.collect() };
        if is_open {
            pausing.ask(deadline).await;
        } else {
            pausing.members.iter_mut().for_each(|member| member.connection = None);
        }
        pausing
    }

    async fn ask(&mut self, deadline: Instant) {
        let sent = Instant::now();
        self.asked_at = sent;
        let left = deadline - sent;
        // This process may have been stopped until now: whoever was to end the pause has done so.
        if left.is_zero() {
            for member in &mut self.members {
                let late = io::Error::new(io::ErrorKind::TimedOut, "no time is left to pause it");
                (member.connection, member.outcome) = (None, Err(Problem::unreachable(late)));
            }
            return;
        }
        let wait = without_rest(left);
        let mut answers: FuturesUnordered<_> = (self.members.iter().enumerate())
            .filter_map(|(place, member)| Some((place, member.connection.clone()?)))
            .map(|(place, connection)| async move { (place, asked(&connection, wait, deadline).await) })
            .collect();
        let mut outcomes = Vec::new();
        // Each call has its own end, at the deadline.
        let mut end = deadline + GRACE;
        while let Ok(Some((place, (is_settled, outcome)))) = timeout_at(end, answers.next()).await {
            if outcome.is_err() {
                end = end.min(Instant::now() + GRACE);
            }
            outcomes.push((place, is_settled, outcome));
        }
        drop(answers);
        for member in &mut self.members {
            member.late_until = sent + wait + LATE;
        }
        for (place, is_settled, outcome) in outcomes {
            let member = &mut self.members[place];
            if is_settled {
                member.late_until = sent;
            }
            member.outcome = outcome;
        }
    }

    /// When the first was asked: before that all connections were opened. Else when it was begun.
    #[must_use]
    pub fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Those that did not say that they are paused; empty when all are. When some have failed, those that were not
    /// waited for any more are not among them.
    #[must_use]
    pub fn failures(&self) -> Vec<InstanceError> {
        let failed = self.members.iter().filter_map(|member| Some((member, member.outcome.as_ref().err()?)));
        let failed = failed.filter(|(_, problem)| !matches!(problem, Problem::GivenUp));
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
        join_all(self.members.iter().map(|member| self.unpause_one(member, deadline))).await
    }

    async fn unpause_one(&self, member: &Member, deadline: Instant) -> Result<Unpaused, InstanceError> {
        let Some(connection) = &member.connection else { return Ok(Unpaused::NeverAsked) };
        let unpausing = Unpausing {
            way: &self.way,
            instance: &member.instance,
            connection: Some(connection.clone()),
            late_until: member.late_until,
            deadline,
        };
        unpausing.run().await
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

/// Pauses one instance. One that answers Pause and lets requests through all the same is not paused.
/// With it whether the Pause can take effect no more, or not again.
async fn asked(
    connection: &Connection,
    wait: Duration,
    deadline: Instant,
) -> (bool, Result<Confirmed, Problem>) {
    let begun = Instant::now();
    if let Err(problem) = connection.pause(wait, deadline - begun).await {
        return (problem.is_settled(), Err(problem));
    }
    let outcome = match connection.standing(deadline - Instant::now()).await {
        Ok(Standing::Open) => Err(Problem::GateOpen),
        Ok(standing) => Ok(Confirmed { within: begun.elapsed(), tells: standing == Standing::Paused }),
        Err(problem) => Err(problem),
    };
    (true, outcome)
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
