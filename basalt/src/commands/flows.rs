//! `basalt flows` and `basalt flow`: what runs, since when, with which error.

use std::io::{Write, stdout};

use database::{Database, now_us};
use serde_json::{Value, json};
use taskflow::{AtomSummary, Filter, FlowDetail, FlowSummary};
use uuid::Uuid;

use super::{shown_time, table};
use crate::error::{Error, Result};

/// Prints flows, newest first.
pub async fn list(
    database: &Database,
    unfinished: bool,
    resource_id: Option<String>,
    limit: u32,
    as_json: bool,
) -> Result<()> {
    let filter = Filter {
        unfinished,
        resource_id,
        limit,
        ..Filter::default()
    };
    let flows = taskflow::list(database, &filter).await.map_err(failed)?;
    let mut output = stdout().lock();
    if as_json {
        let flows: Vec<_> = flows.iter().map(summary_json).collect();
        writeln!(output, "{:#}", Value::from(flows))?;
        return Ok(());
    }
    if flows.is_empty() {
        writeln!(
            output,
            "No flows{}.",
            if unfinished {
                " that have not ended"
            } else {
                ""
            }
        )?;
        return Ok(());
    }
    let rows: Vec<_> = flows.iter().map(row).collect();
    let headings = [
        "ID", "KIND", "STATE", "TASK", "SINCE", "DONE", "RESOURCE", "ERROR",
    ];
    table::print(&mut output, headings, &rows)?;
    Ok(())
}

/// Prints one flow.
pub async fn show(database: &Database, id: Uuid, as_json: bool) -> Result<()> {
    let flow = taskflow::show(database, id).await.map_err(failed)?;
    let mut output = stdout().lock();
    if as_json {
        writeln!(output, "{:#}", detail_json(&flow))?;
        return Ok(());
    }
    for (name, value) in fields(&flow) {
        if !value.is_empty() {
            writeln!(output, "{name:<12}{value}")?;
        }
    }
    writeln!(output)?;
    let rows: Vec<_> = flow.atoms.iter().map(atom_row).collect();
    table::print(
        &mut output,
        [
            "TASK",
            "STATE",
            "STARTED",
            "TOOK",
            "FAILED ATTEMPTS",
            "ERROR",
        ],
        &rows,
    )?;
    Ok(())
}

/// Lets a parked flow go on; a running server finds it with its next sweep.
pub async fn resume(database: &Database, id: Uuid) -> Result<()> {
    taskflow::resume(database, id).await.map_err(failed)?;
    writeln!(stdout(), "Flow {id} goes on as soon as a server sees it.")?;
    Ok(())
}

/// Ends a parked flow.
pub async fn abandon(database: &Database, id: Uuid) -> Result<()> {
    taskflow::abandon(database, id).await.map_err(failed)?;
    writeln!(
        stdout(),
        "Flow {id} is given up. What it left half-made is still there."
    )?;
    Ok(())
}

fn failed(error: taskflow::Error) -> Error {
    match error {
        taskflow::Error::Database(inner) => Error::Database(inner),
        other => Error::Usage(other.to_string()),
    }
}

fn row(flow: &FlowSummary) -> [String; 8] {
    let since = flow.task_since.unwrap_or(flow.info.created_at);
    [
        flow.info.id.to_string(),
        flow.info.kind.clone(),
        flow.state.clone(),
        flow.task.clone().unwrap_or_else(|| "-".to_owned()),
        shown_duration(
            flow.finished_at
                .unwrap_or_else(now_us)
                .saturating_sub(since),
        ),
        format!("{}%", flow.progress_percent),
        format!("{} {}", flow.info.resource_type, flow.info.resource_id),
        reason(flow),
    ]
}

/// Why it is parked or reverts, on one line.
fn reason(flow: &FlowSummary) -> String {
    let failure = flow
        .failure
        .as_ref()
        .map(|failure| format!("{}: {}", failure.task, failure.error));
    let reason = flow.parked.clone().or(failure).unwrap_or_default();
    reason.replace(char::is_control, " ")
}

fn fields(flow: &FlowDetail) -> Vec<(&'static str, String)> {
    let summary = &flow.summary;
    let info = &summary.info;
    let locks = flow.locks.iter().map(|(key, exclusive)| {
        format!(
            "{key} ({})",
            if *exclusive { "exclusive" } else { "shared" }
        )
    });
    let waits_for: Vec<_> = flow.waits_for.iter().map(Uuid::to_string).collect();
    vec![
        ("id", info.id.to_string()),
        ("kind", info.kind.clone()),
        ("state", summary.state.clone()),
        (
            "resource",
            format!("{} {}", info.resource_type, info.resource_id),
        ),
        ("queue", info.queue.clone()),
        ("owner", summary.owner.clone().unwrap_or_default()),
        ("request", info.request_id.clone()),
        ("project", info.project_id.clone()),
        ("user", info.user_id.clone()),
        ("created", shown_time(info.created_at)),
        (
            "finished",
            summary.finished_at.map(shown_time).unwrap_or_default(),
        ),
        ("progress", format!("{}%", summary.progress_percent)),
        ("error", reason(summary)),
        ("locks", locks.collect::<Vec<_>>().join(", ")),
        ("waits for", waits_for.join(", ")),
        ("parameters", flow.params.clone()),
    ]
}

fn atom_row(atom: &AtomSummary) -> [String; 6] {
    let took = atom
        .finished_at
        .map(|finished| finished.saturating_sub(atom.started_at));
    [
        atom.name.clone(),
        atom.state.clone(),
        shown_time(atom.started_at),
        took.map(shown_duration).unwrap_or_default(),
        atom.attempts.to_string(),
        atom.failure
            .as_ref()
            .map(|failure| failure.to_string())
            .unwrap_or_default(),
    ]
}

fn summary_json(flow: &FlowSummary) -> Value {
    let info = &flow.info;
    json!({
        "id": info.id, "kind": info.kind, "queue": info.queue,
        "resource_type": info.resource_type, "resource_id": info.resource_id,
        "request_id": info.request_id, "project_id": info.project_id, "user_id": info.user_id,
        "created_at": shown_time(info.created_at), "updated_at": shown_time(flow.updated_at),
        "finished_at": flow.finished_at.map(shown_time), "state": flow.state, "task": flow.task,
        "task_since": flow.task_since.map(shown_time), "owner": flow.owner,
        "generation": flow.generation, "progress_percent": flow.progress_percent,
        "failure": flow.failure, "parked": flow.parked,
    })
}

fn detail_json(flow: &FlowDetail) -> Value {
    let atoms = flow.atoms.iter().map(|atom| {
        json!({
            "name": atom.name, "state": atom.state, "attempts": atom.attempts,
            "output": atom.output.as_deref().map(embedded), "failure": atom.failure,
            "started_at": shown_time(atom.started_at),
            "finished_at": atom.finished_at.map(shown_time),
        })
    });
    let locks = flow
        .locks
        .iter()
        .map(|(key, exclusive)| json!({"key": key, "exclusive": exclusive}));
    let mut value = summary_json(&flow.summary);
    value["params"] = embedded(&flow.params);
    value["tasks"] = atoms.collect();
    value["locks"] = locks.collect();
    value["waits_for"] = json!(flow.waits_for);
    value
}

/// JSON in JSON; what cannot be read stays text.
fn embedded(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// `12 ms`, `3.4 s`, `5 min`, `2 h`, `3 d`.
fn shown_duration(us: i64) -> String {
    let ms = us.max(0) / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (us, text) in [
            (-5, "0 ms"),
            (999_999, "999 ms"),
            (1_234_567, "1.2 s"),
            (61_000_000, "1 min"),
            (7_200_000_000, "2 h"),
            (i64::MAX, "106751991 d"),
        ] {
            assert_eq!(shown_duration(us), text);
        }
    }
}
