//! The names of states, as the API shows them and the tables keep them (Cinder's `fields.py`).

pub const AVAILABLE: &str = "available";
pub const AWAITING_TRANSFER: &str = "awaiting-transfer";
pub const ATTACHING: &str = "attaching";
pub const BACKING_UP: &str = "backing-up";
pub const COMPLETING: &str = "completing";
pub const CREATING: &str = "creating";
pub const DELETED: &str = "deleted";
pub const DELETING: &str = "deleting";
pub const DETACHING: &str = "detaching";
pub const DOWNLOADING: &str = "downloading";
pub const ERROR: &str = "error";
pub const ERROR_BACKING_UP: &str = "error_backing-up";
pub const ERROR_DELETING: &str = "error_deleting";
pub const ERROR_EXTENDING: &str = "error_extending";
pub const ERROR_MANAGING: &str = "error_managing";
pub const ERROR_RESTORING: &str = "error_restoring";
pub const ERROR_UNMANAGING: &str = "error_unmanaging";
pub const EXTENDING: &str = "extending";
pub const IN_USE: &str = "in-use";
pub const MAINTENANCE: &str = "maintenance";
pub const MANAGING: &str = "managing";
pub const MIGRATING: &str = "migrating";
pub const RESERVED: &str = "reserved";
pub const RESTORING: &str = "restoring";
pub const RESTORING_BACKUP: &str = "restoring-backup";
pub const RETYPING: &str = "retyping";
pub const REVERTING: &str = "reverting";
pub const STARTING: &str = "starting";
pub const SUCCESS: &str = "success";
pub const UNMANAGING: &str = "unmanaging";
pub const UPDATING: &str = "updating";
pub const UPLOADING: &str = "uploading";

/// `attach_status` of an attachment whose client could not be served.
pub const ERROR_ATTACHING: &str = "error_attaching";
/// `attach_status` of a volume nobody has attached.
pub const DETACHED: &str = "detached";
/// `attach_status` of a volume with at least one attachment.
pub const ATTACHED: &str = "attached";
