//! Delivers what lies in the outbox, at least once, until it is delivered.

use std::sync::Arc;
use std::time::Duration;

use database::{Database, Value, now_us, params};
use uuid::Uuid;

use crate::{Bus, Error, Notification, Outbox};

/// How often the outbox is looked into without a ring: others may have died with claims.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A ring comes from inside a transaction: how long it may take to commit.
const COMMIT: Duration = Duration::from_millis(20);
/// Notifications that are claimed at once.
const BATCH: usize = 100;
/// For how long a claim lasts. One that is longer in delivery may be delivered twice.
const CLAIM_US: i64 = 300_000_000;
/// Before the next try of one that the broker refused; the others do not wait for it.
const AGAIN_US: i64 = 5_000_000;

/// A way for notifications: `driver` of `[oslo_messaging_notifications]`.
#[derive(Clone)]
pub enum Carrier {
    /// `messagingv2`, `messaging`
    Bus(Arc<dyn Bus>),
    /// `log`: a line each.
    Log,
}

impl Carrier {
    async fn deliver(&self, notification: &Notification) -> crate::Result<()> {
        match self {
            Carrier::Bus(bus) => bus.notify(notification).await,
            Carrier::Log => {
                tracing::info!(
                    target: "notification",
                    event_type = notification.event_type,
                    publisher_id = notification.publisher_id,
                    priority = ?notification.priority,
                    message_id = notification.message_id,
                    request_id = notification.context.request_id,
                    payload = %notification.payload,
                );
                Ok(())
            }
        }
    }
}

/// Empties the outbox. Several may work on one database.
pub struct Postman {
    database: Database,
    outbox: Outbox,
    carriers: Vec<Carrier>,
    /// `retry`: tries after the first; none: for ever.
    retries: Option<u32>,
}

/// What became of one delivery.
enum Outcome {
    /// Delivered, or given up.
    Done,
    /// To be tried again, not before so long.
    Later { pause_us: i64 },
}

struct Letter {
    id: String,
    body: String,
    attempts: i64,
}

impl Postman {
    /// One for the outbox of this process, and for what other processes left behind.
    pub fn new(
        database: Database,
        outbox: Outbox,
        carriers: Vec<Carrier>,
        retries: Option<u32>,
    ) -> Self {
        Postman {
            database,
            outbox,
            carriers,
            retries,
        }
    }

    /// Delivers until `shutdown` resolves; what is left then is delivered after the next start.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = match self.round().await {
                Ok(BATCH..) => continue,
                Ok(_) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "notifications wait for the database");
                    LOOK_EVERY
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
                () = self.outbox.rung() => tokio::time::sleep(COMMIT).await,
            }
        }
    }

    /// Delivers one batch; returns how many were delivered or given up.
    async fn round(&self) -> database::Result<usize> {
        let letters = self.claim().await?;
        if letters.is_empty() {
            return Ok(0);
        }
        let (mut done, mut late) = (Vec::new(), None);
        for letter in &letters {
            match self.deliver(letter).await {
                Outcome::Done => done.push(letter),
                Outcome::Later { pause_us } => {
                    late = Some((letter, pause_us));
                    break;
                }
            }
        }
        let mut tx = self.database.begin().await?;
        for letter in &done {
            let sql = "DELETE FROM notifications WHERE id = ?";
            tx.execute(sql, params![letter.id.as_str()]).await?;
        }
        if let Some((late, pause_us)) = late {
            let sql = "UPDATE notifications SET attempts = attempts + 1, claim_id = NULL, \
                       claimed_until = ? WHERE id = ?";
            let until = now_us().saturating_add(pause_us);
            tx.execute(sql, params![until, late.id.as_str()]).await?;
            for letter in letters.iter().skip(done.len() + 1) {
                let sql =
                    "UPDATE notifications SET claim_id = NULL, claimed_until = 0 WHERE id = ?";
                tx.execute(sql, params![letter.id.as_str()]).await?;
            }
        }
        tx.commit().await?;
        // After a failure the broker gets the pause.
        Ok(if late.is_some() { 0 } else { done.len() })
    }

    /// The oldest that nobody else delivers.
    async fn claim(&self) -> database::Result<Vec<Letter>> {
        let now = now_us();
        let sql = "SELECT id FROM notifications WHERE claimed_until <= ? ORDER BY position LIMIT ?";
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let rows = self.database.fetch_all(sql, params![now, limit]).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let claim_id = Uuid::new_v4();
        let marks = vec!["?"; rows.len()].join(", ");
        let sql = format!(
            "UPDATE notifications SET claim_id = ?, claimed_until = ? \
             WHERE claimed_until <= ? AND id IN ({marks})"
        );
        let mut values = params![claim_id, now.saturating_add(CLAIM_US), now].to_vec();
        for row in &rows {
            values.push(Value::from(row.get::<String>("id")?));
        }
        let mut tx = self.database.begin().await?;
        tx.execute(&sql, &values).await?;
        let sql =
            "SELECT id, body, attempts FROM notifications WHERE claim_id = ? ORDER BY position";
        let rows = tx.fetch_all(sql, params![claim_id]).await?;
        let letters = rows.iter().map(|row| {
            Ok(Letter {
                id: row.get("id")?,
                body: row.get("body")?,
                attempts: row.get("attempts")?,
            })
        });
        let letters = letters.collect::<database::Result<Vec<_>>>()?;
        tx.commit().await?;
        Ok(letters)
    }

    async fn deliver(&self, letter: &Letter) -> Outcome {
        let notification: Notification = match serde_json::from_str(&letter.body) {
            Ok(notification) => notification,
            Err(error) => {
                tracing::error!(id = letter.id, %error, "a notification cannot be read and is dropped");
                return Outcome::Done;
            }
        };
        let mut failure = None;
        for carrier in &self.carriers {
            if let Err(error) = carrier.deliver(&notification).await {
                failure = Some(error);
            }
        }
        let Some(error) = failure else {
            return Outcome::Done;
        };
        let event_type = notification.event_type;
        let is_last = self
            .retries
            .is_some_and(|retries| letter.attempts >= i64::from(retries));
        if is_last {
            tracing::error!(event_type, id = letter.id, %error, "a notification is given up");
            return Outcome::Done;
        }
        tracing::debug!(event_type, id = letter.id, %error, "a notification is sent again");
        let pause_us = match error {
            // All of them have to wait, and keep their order.
            Error::Unavailable(_) => 0,
            _ => AGAIN_US,
        };
        Outcome::Later { pause_us }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::{Handler, Message, Result, Serving, Target};

    /// Takes notifications unless it is told to refuse some.
    #[derive(Default)]
    struct Broker {
        taken: Mutex<Vec<String>>,
        refuses: Mutex<Option<&'static str>>,
        is_away: AtomicBool,
    }

    #[async_trait]
    impl Bus for Broker {
        async fn cast(&self, _: &Target, _: Message) -> Result<()> {
            unreachable!()
        }
        async fn fanout(&self, _: &str, _: Message) -> Result<()> {
            unreachable!()
        }
        async fn call(&self, _: &Target, _: Message, _: Duration) -> Result<Json> {
            unreachable!()
        }
        async fn serve(&self, _: &str, _: &str, _: Arc<dyn Handler>) -> Result<Serving> {
            unreachable!()
        }
        async fn notify(&self, notification: &Notification) -> Result<()> {
            let event_type = notification.event_type.clone();
            if self
                .refuses
                .lock()
                .unwrap()
                .is_some_and(|refused| event_type == refused)
            {
                return Err(Error::Busy("on purpose".to_owned()));
            }
            if self.is_away.load(Ordering::Relaxed) {
                return Err(Error::Unavailable("on purpose".to_owned()));
            }
            self.taken.lock().unwrap().push(event_type);
            Ok(())
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        broker: Arc<Broker>,
        outbox: Outbox,
        postman: Postman,
    }

    impl World {
        async fn new(retries: Option<u32>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let database = database::testing::migrated_database(folder.path());
            let database = database.await.unwrap();
            let (broker, outbox) = (Arc::new(Broker::default()), Outbox::open());
            let carriers = vec![Carrier::Log, Carrier::Bus(broker.clone())];
            let postman = Postman::new(database, outbox.clone(), carriers, retries);
            World {
                _folder: folder,
                broker,
                outbox,
                postman,
            }
        }

        async fn put(&self, event_types: &[&str], commits: bool) {
            let mut tx = self.postman.database.begin().await.unwrap();
            for event_type in event_types {
                let notification = Notification::info("p", *event_type, json!({}));
                self.outbox.put(&mut tx, &notification).await.unwrap();
            }
            if commits {
                tx.commit().await.unwrap();
            }
        }

        fn taken(&self) -> Vec<String> {
            self.broker.taken.lock().unwrap().drain(..).collect()
        }

        async fn left(&self) -> i64 {
            let sql = "SELECT COUNT(*) AS n FROM notifications";
            let row = self
                .postman
                .database
                .fetch_one(sql, params![])
                .await
                .unwrap();
            row.get("n").unwrap()
        }
    }

    #[tokio::test]
    async fn what_was_committed_is_delivered_in_order_and_nothing_else() {
        let world = World::new(None).await;
        world.put(&["never"], false).await;
        world.put(&["a", "b"], true).await;
        world.put(&["c"], true).await;
        assert_eq!(world.postman.round().await.unwrap(), 3);
        assert_eq!(world.taken(), ["a", "b", "c"]);
        assert_eq!(
            (world.postman.round().await.unwrap(), world.left().await),
            (0, 0)
        );
    }

    #[tokio::test]
    async fn a_refused_one_keeps_no_other_and_comes_again() {
        let world = World::new(None).await;
        *world.broker.refuses.lock().unwrap() = Some("b");
        world.put(&["a", "b", "c"], true).await;
        world.postman.round().await.unwrap();
        world.postman.round().await.unwrap();
        assert_eq!(
            (world.taken(), world.left().await),
            (vec!["a".to_owned(), "c".to_owned()], 1)
        );
        *world.broker.refuses.lock().unwrap() = None;
        let mut tx = world.postman.database.begin().await.unwrap();
        tx.execute("UPDATE notifications SET claimed_until = 0", params![])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        world.postman.round().await.unwrap();
        assert_eq!(
            (world.taken(), world.left().await),
            (vec!["b".to_owned()], 0)
        );
    }

    #[tokio::test]
    async fn while_the_broker_is_away_all_keep_their_order() {
        let world = World::new(None).await;
        world.broker.is_away.store(true, Ordering::Relaxed);
        world.put(&["a", "b"], true).await;
        assert_eq!(world.postman.round().await.unwrap(), 0);
        world.broker.is_away.store(false, Ordering::Relaxed);
        assert_eq!(world.postman.round().await.unwrap(), 2);
        assert_eq!(world.taken(), ["a", "b"]);
    }

    #[tokio::test]
    async fn retries_end_where_the_operator_says_so() {
        let world = World::new(Some(0)).await;
        *world.broker.refuses.lock().unwrap() = Some("a");
        world.put(&["a"], true).await;
        assert_eq!(world.postman.round().await.unwrap(), 1);
        assert_eq!((world.taken(), world.left().await), (vec![], 0));
    }

    #[tokio::test]
    async fn a_running_postman_hears_the_bell_and_stops() {
        let world = World::new(None).await;
        let World {
            _folder,
            broker,
            outbox,
            postman,
        } = world;
        let database = postman.database.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(postman.run(async {
            let _ = stopped.await;
        }));
        let mut tx = database.begin().await.unwrap();
        let notification = Notification::info("p", "a", json!({}));
        outbox.put(&mut tx, &notification).await.unwrap();
        tx.commit().await.unwrap();
        while broker.taken.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send(()).unwrap();
        running.await.unwrap();
    }
}
