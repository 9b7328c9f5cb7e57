//! What an operator sets: Glance's names, Glance's defaults.

use std::path::PathBuf;

use rest::cors::Cors;
use rest::identity::keystone::UnifiedLimits;

use crate::import_plugins::ImportPlugins;
use crate::quota::Limits;

/// Options of the image service. Field names are Glance's option names.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL that clients reach the service at (`http://controller:9292`); `None`: from the request.
    pub public_endpoint: Option<String>,
    /// Names the process in queue names and logs.
    pub host: String,
    /// While this file is there, `/healthcheck` answers 503.
    pub healthcheck_disable_file: Option<PathBuf>,
    /// What pages of other origins may do from a browser; `None`: nothing.
    pub cors: Option<Cors>,
    /// Largest image in bytes.
    pub image_size_cap: u64,
    /// Most custom properties of an image; `None`: any number.
    pub image_property_quota: Option<u64>,
    pub image_tag_quota: Option<u64>,
    pub image_member_quota: Option<u64>,
    /// Bytes of image data that one project may keep; 0: any amount.
    pub user_storage_quota: u64,
    /// What every project may use.
    pub limits: Limits,
    /// Where the limits of each project are instead.
    pub unified_limits: Option<UnifiedLimits>,
    /// Folder of this node's copies of images; `None`: there is no cache.
    pub image_cache_dir: Option<PathBuf>,
    /// Most bytes of the cache.
    pub image_cache_max_size: u64,
    /// Page size of lists where the request names none.
    pub limit_param_default: u32,
    /// Largest page size of lists.
    pub api_limit_max: u32,
    /// Whether an image shows the URL of its data to everybody who may see the image.
    pub show_image_direct_url: bool,
    /// Whether an image shows all its locations to everybody who may see the image.
    pub show_multiple_locations: bool,
    /// Whether data that is not in the declared format is refused.
    pub require_image_format_match: bool,
    /// Safety checks of a GPT that only warn: `mbr`, `gptmbr`.
    pub gpt_safety_checks_nonfatal: Vec<String>,
    pub container_formats: Vec<String>,
    pub disk_formats: Vec<String>,
    /// Pool of the store that keeps images.
    pub rbd_store_pool: String,
    /// Bytes that an upload writes, and a download reads, at a time.
    pub rbd_store_chunk_size: usize,
    /// Uploads that are received at the same time; further ones wait.
    pub max_concurrent_uploads: usize,
    /// The stores that clients may choose from; empty: one store, which has no id.
    pub enabled_backends: Vec<StoreOptions>,
    /// The store of requests that name none; `None`: the first one.
    pub default_backend: Option<String>,
    /// Pool that keeps staged data until it is imported.
    pub staging_pool: String,
    pub enabled_import_methods: Vec<String>,
    pub import_filter: ImportFilter,
    pub import_plugins: ImportPlugins,
    /// Beginnings of the names of properties that glance-download takes over.
    pub glance_download_properties: Vec<String>,
    pub image_location_quota: Option<u64>,
    /// Whether the data of an added location is hashed.
    pub do_secure_hash: bool,
    /// How often reading the data of an added location is tried again.
    pub http_retries: u32,
    /// Hours that an ended task can be seen.
    pub task_time_to_live_h: u32,
}

/// One of `enabled_backends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    pub id: String,
    pub kind: StoreKind,
    pub store_description: String,
    /// Data is read from the store of the highest weight first.
    pub weight: i64,
}

/// The type of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    Rbd {
        pool: String,
        chunk_bytes: usize,
    },
    /// Locations on the web, read only.
    Http,
}

/// `[import_filtering_opts]`: which URLs the service fetches for its users. Of two lists of the
/// same kind only the one that allows counts; an empty one allows everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportFilter {
    pub allowed_schemes: Vec<String>,
    pub disallowed_schemes: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub disallowed_hosts: Vec<String>,
    pub allowed_ports: Vec<u16>,
    pub disallowed_ports: Vec<u16>,
}

impl Default for ImportFilter {
    fn default() -> Self {
        ImportFilter {
            allowed_schemes: vec!["http".to_owned(), "https".to_owned()],
            disallowed_schemes: Vec::new(),
            allowed_hosts: Vec::new(),
            disallowed_hosts: Vec::new(),
            allowed_ports: vec![80, 443],
            disallowed_ports: Vec::new(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let words = |words: &str| words.split(' ').map(str::to_owned).collect();
        Options {
            public_endpoint: None,
            host: "localhost".to_owned(),
            healthcheck_disable_file: None,
            cors: None,
            image_size_cap: 1 << 40,
            image_property_quota: Some(128),
            image_tag_quota: Some(128),
            image_member_quota: Some(128),
            user_storage_quota: 0,
            limits: Limits::default(),
            unified_limits: None,
            image_cache_dir: None,
            image_cache_max_size: 10 << 30,
            limit_param_default: 25,
            api_limit_max: 1000,
            show_image_direct_url: false,
            show_multiple_locations: false,
            require_image_format_match: true,
            gpt_safety_checks_nonfatal: Vec::new(),
            container_formats: words("ami ari aki bare ovf ova docker compressed"),
            disk_formats: words("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop"),
            rbd_store_pool: "images".to_owned(),
            rbd_store_chunk_size: 8 << 20,
            max_concurrent_uploads: 64,
            enabled_backends: Vec::new(),
            default_backend: None,
            staging_pool: "images-staging".to_owned(),
            enabled_import_methods: words("glance-direct web-download copy-image glance-download"),
            import_filter: ImportFilter::default(),
            import_plugins: ImportPlugins::default(),
            glance_download_properties: words("hw_ trait: os_distro os_secure_boot os_type"),
            image_location_quota: Some(10),
            do_secure_hash: true,
            http_retries: 3,
            task_time_to_live_h: 48,
        }
    }
}
