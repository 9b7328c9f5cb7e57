//! `volume:tell_servers`: the servers that have a volume hear what happened to it. A flow of its
//! own, inserted with the last record of the one that did it: what servers read then is final,
//! and a compute service that is away harms nothing.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, FlowInfo, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::tell;
use crate::compute::{Compute, Event};
use crate::db::attachments;
use crate::db::messages::{Action, Detail, Resource};
use crate::manager::Manager;

/// Parameters of [`TellServers`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TellServersParams {
    pub volume_id: Uuid,
    pub server_ids: Vec<Uuid>,
    pub event: Event,
}

/// Changes no row; a failure leaves a message.
pub struct TellServers;

impl TellServers {
    /// Inserts the flow where servers have the volume and there is somebody to tell them. `by`
    /// is the flow at whose end this stands.
    pub(super) async fn insert(
        manager: &Manager,
        tx: &mut Tx,
        by: &FlowInfo,
        volume_id: Uuid,
        event: Event,
    ) -> Result<(), TaskError> {
        if !matches!(manager.compute, Compute::At(_)) {
            return Ok(());
        }
        let all = attachments::of_volume(&mut *tx, volume_id).await?;
        let server_ids: Vec<Uuid> = all.iter().filter_map(|one| one.instance_id).collect();
        if server_ids.is_empty() {
            return Ok(());
        }
        let params = TellServersParams {
            volume_id,
            server_ids,
            event,
        };
        let failed = |error: taskflow::Error| TaskError::new("Flow", error.to_string());
        let flow = NewFlow::of::<TellServers>(&params).map_err(failed)?;
        flow.queue(&by.queue)
            .resource("volume", volume_id)
            .request(&by.request_id, &by.project_id, &by.user_id)
            .insert(tx)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl Flow for TellServers {
    const KIND: &'static str = "volume:tell_servers";
    type Context = Manager;
    type Params = TellServersParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Tell)]
    }
}

/// The compute service has taken the event.
struct Tell;

#[async_trait]
impl Task<TellServers> for Tell {
    const NAME: &'static str = "tell";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::times(5, 1000)
    }

    async fn execute(&self, run: &Run<TellServers>) -> Result<(), TaskError> {
        let Compute::At(compute) = &run.ctx.compute else {
            return Ok(());
        };
        let TellServersParams {
            volume_id,
            server_ids,
            event,
        } = &run.params;
        let told = compute.tell(*event, server_ids, *volume_id).await;
        told.map_err(|error| TaskError::retryable("ComputeUnavailable", error.to_string()))
    }

    async fn record_revert(
        &self,
        run: &Run<TellServers>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let (action, detail) = match run.params.event {
            Event::Extended => (Action::ExtendVolume, Detail::NotifyComputeServiceFailed),
            Event::Reimaged => (Action::ReimageVolume, Detail::ReimageVolumeFailed),
        };
        let resource = (Resource::Volume, run.params.volume_id);
        tell(tx, &run.flow, resource, action, detail).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::State;
    use axum::routing::post;
    use axum::{Json, Router};
    use rest::http_client::Tls;
    use serde_json::{Value, json};

    use super::super::testbed::{HOST, StaticToken, World, requester};
    use super::super::{ExtendVolume, ExtendVolumeParams, volume_queue};
    use super::*;
    use crate::compute::Client;
    use crate::db::attachments::Attachment;
    use crate::db::status;

    type Heard = Arc<Mutex<Vec<Value>>>;

    async fn nova(heard: Heard) -> Compute {
        async fn take(State(heard): State<Heard>, Json(body): Json<Value>) -> Json<Value> {
            heard.lock().unwrap().push(body);
            Json(json!({}))
        }
        let events = post(take);
        let router = Router::new()
            .route("/v2.1/os-server-external-events", events)
            .with_state(heard);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2.1/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Compute::At(Client::new(&url, &Tls::default(), Arc::new(StaticToken)).unwrap())
    }

    async fn extended(compute: Compute) -> (World, Uuid, Option<Uuid>, Uuid) {
        let world = World::with(|manager| manager.compute = compute).await;
        let id = world.filled_volume(2).await;
        let attachment = Attachment::reserved(id, Some(Uuid::new_v4()), "rw");
        let mut tx = world.database.begin().await.unwrap();
        attachments::insert(&mut tx, &attachment).await.unwrap();
        tx.commit().await.unwrap();
        world.set_status("volumes", id, status::EXTENDING).await;
        world
            .set("volumes", id, "attach_status", status::ATTACHED)
            .await;
        let params = ExtendVolumeParams {
            volume_id: id,
            old_size_gib: 1,
            new_size_gib: 2,
        };
        let flow = ExtendVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<ExtendVolume>(flow).await, "SUCCESS");
        let sql = "SELECT id FROM flows WHERE kind = ?";
        let values = database::params![TellServers::KIND];
        let row = world.database.fetch_optional(sql, values).await.unwrap();
        let flow = row.map(|row| row.get("id").unwrap());
        (world, id, flow, attachment.instance_id.unwrap())
    }

    #[tokio::test]
    async fn servers_hear_of_an_extended_volume() {
        let heard = Heard::default();
        let (world, id, flow, server) = extended(nova(heard.clone()).await).await;
        let manager = world.manager.clone();
        let ended =
            taskflow::testing::run_to_end::<TellServers>(&world.database, manager, flow.unwrap());
        assert_eq!(ended.await, "SUCCESS");
        let event = json!({"name": "volume-extended", "server_uuid": server, "tag": id});
        assert_eq!(*heard.lock().unwrap(), [json!({"events": [event]})]);
    }

    #[tokio::test]
    async fn a_compute_service_that_is_away_leaves_a_message() {
        let away = Client::new(
            "http://127.0.0.1:1/",
            &Tls::default(),
            Arc::new(StaticToken),
        )
        .unwrap();
        let (world, id, flow, _) = extended(Compute::At(away)).await;
        let manager = world.manager.clone();
        let ended =
            taskflow::testing::run_to_end::<TellServers>(&world.database, manager, flow.unwrap());
        assert_eq!(ended.await, "REVERTED");
        let sql = "SELECT action_id, detail_id FROM volume_messages WHERE resource_id = ?";
        let row = world
            .database
            .fetch_one(sql, database::params![id])
            .await
            .unwrap();
        let column = |name| row.get::<String>(name).unwrap();
        assert_eq!(
            (column("action_id"), column("detail_id")),
            ("007".into(), "009".into())
        );
        let volume = world.manager.volume(id).await.unwrap();
        assert_eq!(
            (volume.status.as_str(), volume.size_gib),
            (status::IN_USE, 2)
        );
    }

    #[tokio::test]
    async fn where_there_are_no_servers_nobody_is_told() {
        let (_, _, flow, _) = extended(Compute::Absent).await;
        assert_eq!(flow, None);
    }
}
