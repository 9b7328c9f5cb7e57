//! The queues of a worker, and those that it inherits: where a worker of the same group is not
//! seen for the time of a lease, the others serve its queues as well as their own.

use database::{Database, now_us, params};

/// A queue that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    /// Workers with queues of one group can run each other's flows; `None`: nobody else can.
    pub group: Option<String>,
}

impl Queue {
    /// A queue that the workers of `group` inherit from each other.
    pub fn of_group(name: impl Into<String>, group: impl Into<String>) -> Self {
        Queue {
            name: name.into(),
            group: Some(group.into()),
        }
    }
}

impl From<String> for Queue {
    fn from(name: String) -> Self {
        Queue { name, group: None }
    }
}

impl From<&str> for Queue {
    fn from(name: &str) -> Self {
        Queue::from(name.to_owned())
    }
}

/// Writes down that `owner` serves its queues, and returns those of its groups that nobody has
/// served for the time of a lease.
///
/// A queue that was never written down is not returned: a worker of an earlier release, which
/// does not say that it lives, may serve it.
pub(crate) async fn attend(
    database: &Database,
    owner: &str,
    queues: &[Queue],
    lease_us: i64,
) -> Result<Vec<String>, database::Error> {
    let shared: Vec<(&str, &str)> = queues
        .iter()
        .filter_map(|queue| Some((queue.name.as_str(), queue.group.as_deref()?)))
        .collect();
    if shared.is_empty() {
        return Ok(Vec::new());
    }
    let now = now_us();
    let mut tx = database.begin().await?;
    for &(queue, group) in &shared {
        let seen = "UPDATE flow_workers SET seen_at = ?, queue_group = ? \
                    WHERE owner = ? AND queue = ?";
        if tx.execute(seen, params![now, group, owner, queue]).await? == 0 {
            let new = "INSERT INTO flow_workers (owner, queue, queue_group, seen_at) \
                       VALUES (?, ?, ?, ?)";
            tx.execute(new, params![owner, queue, group, now]).await?;
        }
    }
    let mut inherited = Vec::new();
    for &(_, group) in &shared {
        let left = "SELECT queue FROM flow_workers WHERE queue_group = ? \
                    GROUP BY queue HAVING MAX(seen_at) < ?";
        for row in tx.fetch_all(left, params![group, now - lease_us]).await? {
            inherited.push(row.get("queue")?);
        }
    }
    tx.commit().await?;
    inherited.sort();
    inherited.dedup();
    Ok(inherited)
}
