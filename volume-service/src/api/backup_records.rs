//! `GET backups/{id}/export_record`, `POST backups/import_record`.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::JsonBody;
use rest::validate::Object;
use serde::Serialize;

use super::call::Call;
use super::views::Summary;
use super::views::backups::{One, summary};
use super::{Answer, body};
use crate::domain::backup_records::{self as domain, BackupRecord};
use crate::domain::backups;

const MAX_URL_CHARS: usize = 1 << 20;

/// `{"backup-record": …}`
#[derive(Serialize)]
pub(super) struct Exported {
    #[serde(rename = "backup-record")]
    record: RecordView,
}

#[derive(Serialize)]
struct RecordView {
    backup_service: String,
    backup_url: String,
}

/// `GET backups/{id}/export_record`
pub(super) async fn export(call: Call, Path(id): Path<String>) -> Answer<Json<Exported>> {
    let backup = backups::get(&call.service, &call.context, &id).await?;
    call.enforce("backup:export-import", &backup.project_id)?;
    let record = domain::export(&call.service, &backup).await?;
    Ok(Json(Exported {
        record: RecordView {
            backup_service: record.service,
            backup_url: record.url,
        },
    }))
}

/// `POST backups/import_record`
pub(super) async fn import(call: Call, body: JsonBody) -> Answer<(StatusCode, Json<One<Summary>>)> {
    call.enforce_own("backup:backup-import")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "backup-record")?;
    object.only(&["backup_service", "backup_url"])?;
    let record = BackupRecord {
        service: object
            .required_string("backup_service", 1..=255)?
            .to_owned(),
        url: object
            .required_string("backup_url", 1..=MAX_URL_CHARS)?
            .to_owned(),
    };
    let backup = domain::import(&call.service, &call.context, &record).await?;
    Ok((
        StatusCode::CREATED,
        Json(One {
            backup: summary(&call, backup),
        }),
    ))
}
