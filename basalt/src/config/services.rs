//! From checked options to the options of the services: plain structs that know nothing of files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use image_service::{
    ConversionFormat, Engines, ImportFilter, ImportPlugins, InjectMetadata, StoreKind, StoreOptions,
};
use rest::ErrorShape;
use rest::cors::Cors;
use rest::http_client::Tls;
use storage::ImageStore;
use volume_service::keys::Key;
use volume_service::manager::BackupTarget;
use volume_service::scheduler::{filters, weighers};

use super::backends::Stores;
use super::options::{FIXED_KEY_MANAGER, IMAGE_STORE};
use super::settings::required;
use super::{Config, ConfigError, ceph};

/// The volume service, without its backends.
pub fn volume_options(config: &Config) -> Result<volume_service::Options, ConfigError> {
    let limit = |name: &str| config.integer::<i64>("DEFAULT", name);
    Ok(volume_service::Options {
        host: required(config, "DEFAULT", "host")?,
        storage_availability_zone: required(config, "DEFAULT", "storage_availability_zone")?,
        default_availability_zone: config.text("DEFAULT", "default_availability_zone")?,
        allow_availability_zone_fallback: config
            .boolean("DEFAULT", "allow_availability_zone_fallback")?,
        cloned_volume_same_az: config.boolean("DEFAULT", "cloned_volume_same_az")?,
        default_volume_type: required(config, "DEFAULT", "default_volume_type")?,
        default_group_type: config.text("DEFAULT", "default_group_type")?,
        quota_volumes: limit("quota_volumes")?,
        quota_snapshots: limit("quota_snapshots")?,
        quota_gigabytes: limit("quota_gigabytes")?,
        quota_backups: limit("quota_backups")?,
        quota_backup_gigabytes: limit("quota_backup_gigabytes")?,
        quota_groups: limit("quota_groups")?,
        per_volume_size_limit: limit("per_volume_size_limit")?,
        no_snapshot_gb_quota: config.boolean("DEFAULT", "no_snapshot_gb_quota")?,
        service_down_time_s: config.integer("DEFAULT", "service_down_time")?,
        osapi_max_limit: config.integer("DEFAULT", "osapi_max_limit")?,
        public_endpoint: config.text("DEFAULT", "public_endpoint")?,
        enable_force_upload: config.boolean("DEFAULT", "enable_force_upload")?,
        service_token_roles: config.list("keystone_authtoken", "service_token_roles")?,
        backup_container: required(config, "DEFAULT", "backup_ceph_pool")?,
        scheduler_default_filters: known_names(
            config,
            "scheduler_default_filters",
            &filters::names().collect::<Vec<_>>(),
        )?,
        scheduler_default_weighers: known_names(
            config,
            "scheduler_default_weighers",
            &weighers::names().collect::<Vec<_>>(),
        )?,
        scheduler_max_attempts: config.integer("DEFAULT", "scheduler_max_attempts")?,
        capacity_weight_multiplier: config.number("DEFAULT", "capacity_weight_multiplier")?,
        allocated_capacity_weight_multiplier: config
            .number("DEFAULT", "allocated_capacity_weight_multiplier")?,
        volume_number_multiplier: config.number("DEFAULT", "volume_number_multiplier")?,
        max_request_body_size: max_request_body_size(config)?,
        healthcheck_disable_file: healthcheck_disable_file(config)?,
        cors: cors(config, ErrorShape::Volume)?,
    })
}

/// A list of names that must all be among `known`.
fn known_names(config: &Config, option: &str, known: &[&str]) -> Result<Vec<String>, ConfigError> {
    let names = config.list("DEFAULT", option)?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let reason = format!("{unknown:?} is not one of {}", known.join(", "));
        return Err(ConfigError::option("DEFAULT", option, reason));
    }
    Ok(names)
}

fn max_request_body_size(config: &Config) -> Result<usize, ConfigError> {
    match config.integer("DEFAULT", "osapi_max_request_body_size")? {
        0 => config.integer("oslo_middleware", "max_request_body_size"),
        size => Ok(size),
    }
}

fn healthcheck_disable_file(config: &Config) -> Result<Option<PathBuf>, ConfigError> {
    let path = config.text("healthcheck", "disable_by_file_path")?;
    Ok(path.map(|path| config.beside(&path)))
}

/// What browsers may do at the service of this shape; nothing unless an origin is allowed.
fn cors(config: &Config, shape: ErrorShape) -> Result<Option<Cors>, ConfigError> {
    let origins = config.list("cors", "allowed_origin")?;
    if origins.is_empty() {
        return Ok(None);
    }
    let own = Cors::new(shape, origins);
    let list = |name: &str, unset: &[String]| {
        let set = config.list("cors", name)?;
        Ok::<_, ConfigError>(if set.is_empty() { unset.to_vec() } else { set })
    };
    Ok(Some(Cors {
        allow_credentials: config.boolean("cors", "allow_credentials")?,
        expose_headers: list("expose_headers", &own.expose_headers)?,
        max_age_s: config.integer("cors", "max_age")?,
        allow_methods: list("allow_methods", &own.allow_methods)?,
        allow_headers: list("allow_headers", &own.allow_headers)?,
        ..own
    }))
}

/// How to reach an image API with https.
pub fn image_api_tls(config: &Config) -> Result<Tls, ConfigError> {
    let names = [
        "glance_ca_certificates_file",
        "glance_certfile",
        "glance_keyfile",
        "glance_api_insecure",
    ];
    tls(config, "DEFAULT", names)
}

/// What TLS to the compute API takes.
pub fn compute_tls(config: &Config) -> Result<Tls, ConfigError> {
    tls(
        config,
        "nova",
        ["cafile", "certfile", "keyfile", "insecure"],
    )
}

/// What TLS to Barbican takes.
pub fn barbican_tls(config: &Config) -> Result<Tls, ConfigError> {
    let path = config.text("barbican", "verify_ssl_path")?;
    Ok(Tls {
        cafile: path.map(|path| config.beside(&path)),
        insecure: !config.boolean("barbican", "verify_ssl")?,
        ..Tls::default()
    })
}

/// `[key_manager] fixed_key`, where the fixed key is the back-end.
pub fn fixed_key(config: &Config) -> Result<Option<Key>, ConfigError> {
    if config.text("key_manager", "backend")?.as_deref() != Some(FIXED_KEY_MANAGER) {
        return Ok(None);
    }
    let wrong = |reason: &str| ConfigError::option("key_manager", "fixed_key", reason);
    let digits = config.text("key_manager", "fixed_key")?;
    let digits = digits.ok_or_else(|| wrong("must be set with this backend"))?;
    let pairs = (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2));
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect();
    match bytes {
        Some(bytes) if (16..=64).contains(&bytes.len()) => Ok(Some(Key::new(bytes))),
        // The text is a secret.
        _ => Err(wrong("must be 32 to 128 hexadecimal digits")),
    }
}

fn tls(config: &Config, section: &str, names: [&str; 4]) -> Result<Tls, ConfigError> {
    let [cafile, certfile, keyfile, insecure] = names;
    let path = |name: &str| {
        let path = config.text(section, name)?;
        Ok::<_, ConfigError>(path.map(|path| config.beside(&path)))
    };
    Ok(Tls {
        cafile: path(cafile)?,
        certfile: path(certfile)?,
        keyfile: path(keyfile)?,
        insecure: config.boolean(section, insecure)?,
    })
}

/// Where backups go: a pool of the node's store, or of a cluster.
pub fn backup_target(config: &Config, stores: &Stores) -> Result<BackupTarget, ConfigError> {
    let store: Arc<dyn ImageStore> = match ceph::of_backups(config)? {
        Some(reach) => Arc::new(stores.cluster(&reach)?.store.clone()),
        None => Arc::clone(stores.node(("DEFAULT", "backup_ceph_conf"))?),
    };
    Ok(BackupTarget {
        store,
        pool: required(config, "DEFAULT", "backup_ceph_pool")?,
        max_snapshots: config.integer("DEFAULT", "backup_ceph_max_snapshots")?,
    })
}

/// The image service.
pub fn image_options(config: &Config) -> Result<image_service::Options, ConfigError> {
    // Glance: a negative quota is none.
    let quota = |name: &str| {
        config
            .integer::<i64>("image_api", name)
            .map(|most| u64::try_from(most).ok())
    };
    Ok(image_service::Options {
        public_endpoint: config.text("image_api", "public_endpoint")?,
        host: required(config, "DEFAULT", "host")?,
        healthcheck_disable_file: healthcheck_disable_file(config)?,
        cors: cors(config, ErrorShape::Image)?,
        image_size_cap: config.integer("image_api", "image_size_cap")?,
        image_property_quota: quota("image_property_quota")?,
        image_tag_quota: quota("image_tag_quota")?,
        image_member_quota: quota("image_member_quota")?,
        user_storage_quota: storage_quota(config)?,
        limits: image_service::Limits {
            image_size_total: quota("image_size_total")?,
            image_stage_total: quota("image_stage_total")?,
            image_count_total: quota("image_count_total")?,
            image_count_uploading: quota("image_count_uploading")?,
        },
        unified_limits: super::identity::unified_limits(config)?,
        image_cache_dir: config
            .text("image_api", "image_cache_dir")?
            .map(std::path::PathBuf::from),
        image_cache_max_size: config.integer("image_api", "image_cache_max_size")?,
        limit_param_default: config.integer("image_api", "limit_param_default")?,
        api_limit_max: config.integer("image_api", "api_limit_max")?,
        show_image_direct_url: config.boolean("image_api", "show_image_direct_url")?,
        show_multiple_locations: config.boolean("image_api", "show_multiple_locations")?,
        require_image_format_match: config.boolean("image_format", "require_image_format_match")?,
        gpt_safety_checks_nonfatal: config.list("image_format", "gpt_safety_checks_nonfatal")?,
        container_formats: config.list("image_format", "container_formats")?,
        disk_formats: config.list("image_format", "disk_formats")?,
        rbd_store_pool: required(config, IMAGE_STORE, "rbd_store_pool")?,
        rbd_store_chunk_size: chunk_bytes(config, IMAGE_STORE)?,
        enabled_backends: image_stores(config)?,
        default_backend: config.text(IMAGE_STORE, "default_backend")?,
        staging_pool: required(config, "os_glance_staging_store", "rbd_store_pool")?,
        enabled_import_methods: import_methods(config)?,
        import_filter: import_filter(config)?,
        import_plugins: import_plugins(config)?,
        glance_download_properties: bracketed(
            config,
            "glance_download_properties",
            "extra_properties",
        )?,
        image_location_quota: quota("image_location_quota")?,
        do_secure_hash: config.boolean("image_api", "do_secure_hash")?,
        http_retries: config.integer("image_api", "http_retries")?,
        task_time_to_live_h: config.integer("task", "task_time_to_live")?,
        ..image_service::Options::default()
    })
}

/// The engines of the image stores. Staged data lies where the default store does.
pub fn image_engines(config: &Config, stores: &Stores) -> Result<Engines, ConfigError> {
    let engine = |section: &str| -> Result<Arc<dyn ImageStore>, ConfigError> {
        let Some(reach) = ceph::of_image_store(config, section)? else {
            return stores.node((section, "rbd_store_ceph_conf")).cloned();
        };
        let option = "rbd_store_chunk_size";
        let object_mib: u64 = config.integer(section, option)?;
        let store = stores.cluster_store(&reach, (section, option), object_mib)?;
        Ok(Arc::new(store))
    };
    let stores = image_stores(config)?;
    let of_stores = stores.iter().filter(|store| store.kind != StoreKind::Http);
    let by_id = of_stores.map(|store| Ok((store.id.clone(), engine(&store.id)?)));
    let by_id = by_id.collect::<Result<BTreeMap<_, _>, ConfigError>>()?;
    let default_id = config.text(IMAGE_STORE, "default_backend")?;
    let default_id = default_id.or_else(|| stores.first().map(|store| store.id.clone()));
    let default = default_id.and_then(|id| by_id.get(&id).cloned());
    Ok(Engines {
        default: match default {
            Some(engine) => engine,
            None => engine(IMAGE_STORE)?,
        },
        by_id,
    })
}

/// One entry for each `id:type` in `[image_api] enabled_backends`.
fn image_stores(config: &Config) -> Result<Vec<StoreOptions>, ConfigError> {
    let store = |item: &String| {
        let wrong = |reason: String| ConfigError::option("image_api", "enabled_backends", reason);
        let pair = item.split_once(':');
        let (id, kind) = pair.ok_or_else(|| wrong(format!("{item:?} is not id:type")))?;
        let (id, kind) = (id.trim(), kind.trim());
        if id.is_empty() || id.contains(char::is_whitespace) {
            return Err(wrong(format!("{id:?} is not an id of a store")));
        }
        let kind = match kind {
            "http" => StoreKind::Http,
            "rbd" => StoreKind::Rbd {
                pool: required(config, id, "rbd_store_pool")?,
                chunk_bytes: chunk_bytes(config, id)?,
            },
            other => return Err(wrong(format!("the type {other:?} is not supported"))),
        };
        Ok(StoreOptions {
            id: id.to_owned(),
            kind,
            store_description: config.text(id, "store_description")?.unwrap_or_default(),
            weight: config.integer(id, "weight")?,
        })
    };
    let items = config.list("image_api", "enabled_backends")?;
    items.iter().map(store).collect()
}

fn chunk_bytes(config: &Config, section: &str) -> Result<usize, ConfigError> {
    let chunk_mib: usize = config.integer(section, "rbd_store_chunk_size")?;
    Ok(chunk_mib.saturating_mul(1 << 20))
}

/// A list that Glance writes in brackets.
fn bracketed(config: &Config, section: &str, name: &str) -> Result<Vec<String>, ConfigError> {
    let text = config.text(section, name)?.unwrap_or_default();
    let inner = text.strip_prefix('[').unwrap_or(&text);
    let inner = inner.strip_suffix(']').unwrap_or(inner);
    let quotes = |c: char| c == '\'' || c == '"' || c.is_whitespace();
    let items = inner.split(',').map(|item| item.trim_matches(quotes));
    let items = items.filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

fn import_methods(config: &Config) -> Result<Vec<String>, ConfigError> {
    let methods = bracketed(config, "image_api", "enabled_import_methods")?;
    let known = &image_service::Options::default().enabled_import_methods;
    match methods.iter().find(|method| !known.contains(method)) {
        None => Ok(methods),
        Some(method) => {
            let reason = format!("{method:?} is not one of {}", known.join(", "));
            let option = ("image_api", "enabled_import_methods");
            Err(ConfigError::option(option.0, option.1, reason))
        }
    }
}

fn import_plugins(config: &Config) -> Result<ImportPlugins, ConfigError> {
    let option = ("image_import_opts", "image_import_plugins");
    let mut plugins = ImportPlugins::default();
    for name in bracketed(config, option.0, option.1)? {
        match name.as_str() {
            "no_op" => {}
            "image_decompression" => plugins.image_decompression = true,
            "image_conversion" => {
                let format = required(config, "image_conversion", "output_format")?;
                plugins.image_conversion = Some(match format.as_str() {
                    "qcow2" => ConversionFormat::Qcow2,
                    "vmdk" => ConversionFormat::Vmdk,
                    _ => ConversionFormat::Raw,
                });
            }
            "inject_image_metadata" => {
                plugins.inject_image_metadata = Some(inject_metadata(config)?);
            }
            other => {
                let reason = format!("the plugin {other:?} is not known");
                return Err(ConfigError::option(option.0, option.1, reason));
            }
        }
    }
    Ok(plugins)
}

fn inject_metadata(config: &Config) -> Result<InjectMetadata, ConfigError> {
    let section = "inject_metadata_properties";
    let pair = |item: &String| {
        let pair = item.split_once(':');
        let pair = pair.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        pair.filter(|(name, _)| image_service::is_property_name(name))
            .ok_or_else(|| {
                let reason = format!("{item:?} is not name:value with the name of a property");
                ConfigError::option(section, "inject", reason)
            })
    };
    let inject = config.list(section, "inject")?;
    Ok(InjectMetadata {
        ignore_user_roles: config.list(section, "ignore_user_roles")?,
        inject: inject.iter().map(pair).collect::<Result<_, _>>()?,
    })
}

fn import_filter(config: &Config) -> Result<ImportFilter, ConfigError> {
    let section = "import_filtering_opts";
    let list = |name: &str| config.list(section, name);
    let ports = |name: &str| -> Result<Vec<u16>, ConfigError> {
        let port = |text: &String| {
            let wrong = |_| ConfigError::option(section, name, format!("{text:?} is not a port"));
            text.parse::<u16>().map_err(wrong)
        };
        list(name)?.iter().map(port).collect()
    };
    Ok(ImportFilter {
        allowed_schemes: list("allowed_schemes")?,
        disallowed_schemes: list("disallowed_schemes")?,
        allowed_hosts: list("allowed_hosts")?,
        disallowed_hosts: list("disallowed_hosts")?,
        allowed_ports: ports("allowed_ports")?,
        disallowed_ports: ports("disallowed_ports")?,
    })
}

/// Glance's notation: a number, and B, KB, MB, GB or TB (powers of 1024).
fn storage_quota(config: &Config) -> Result<u64, ConfigError> {
    let text = required(config, "image_api", "user_storage_quota")?;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text.get(digits.len()..).unwrap_or_default().trim() {
        "" | "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => 0,
    };
    let number = digits.parse::<u64>().ok().filter(|_| factor > 0);
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| {
            let reason = format!("{text:?} is not a number with B, KB, MB, GB or TB");
            ConfigError::option("image_api", "user_storage_quota", reason)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Config::load(&[], pairs).unwrap()
    }

    #[test]
    fn browsers_are_let_in_where_an_origin_is_named() {
        let off = config(&[("OS_CORS__MAX_AGE", "5")]);
        assert_eq!(image_options(&off).unwrap().cors, None);
        let on = config(&[
            ("OS_CORS__ALLOWED_ORIGIN", "https://a, https://b"),
            ("OS_CORS__ALLOW_METHODS", "GET"),
            ("OS_CORS__MAX_AGE", "5"),
        ]);
        let image = image_options(&on).unwrap().cors.unwrap();
        assert_eq!(image.allowed_origins, ["https://a", "https://b"]);
        assert_eq!((image.allow_methods.len(), image.max_age_s), (1, 5));
        let volume = volume_options(&on).unwrap().cors.unwrap();
        let version = "OpenStack-API-Version".to_owned();
        assert!(volume.allow_headers.contains(&version));
        assert!(!image.allow_headers.contains(&version));
    }

    /// Cinder's and Glance's defaults stand in the table here and in the services: they must agree.
    #[test]
    fn nothing_configured_is_what_the_services_call_default() {
        let host = "basalt".to_owned();
        let expected = volume_service::Options {
            host,
            ..Default::default()
        };
        let options = volume_options(&config(&[])).unwrap();
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));

        let expected = image_service::Options {
            host: "basalt".to_owned(),
            // So that volumes become clones of images without further configuration.
            show_image_direct_url: true,
            ..Default::default()
        };
        let options = image_options(&config(&[])).unwrap();
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
    }

    #[test]
    fn image_stores_have_sections_of_their_own() {
        let configured = config(&[
            ("OS_IMAGE_API__ENABLED_BACKENDS", "fast:rbd, web:http"),
            ("OS_FAST__RBD_STORE_POOL", "nvme"),
            ("OS_FAST__WEIGHT", "-3"),
            ("OS_GLANCE_STORE__RBD_STORE_CHUNK_SIZE", "8"),
            ("OS_GLANCE_STORE__DEFAULT_BACKEND", "fast"),
            ("OS_IMPORT_FILTERING_OPTS__ALLOWED_PORTS", ""),
            ("OS_IMAGE_API__ENABLED_IMPORT_METHODS", "['web-download']"),
        ]);
        let options = image_options(&configured).unwrap();
        let [fast, web] = &options.enabled_backends[..] else {
            panic!("{:?}", options.enabled_backends);
        };
        let kind = StoreKind::Rbd {
            pool: "nvme".to_owned(),
            chunk_bytes: 8 << 20,
        };
        assert_eq!(
            (fast.id.as_str(), fast.weight, &fast.kind),
            ("fast", -3, &kind)
        );
        assert_eq!((web.id.as_str(), &web.kind), ("web", &StoreKind::Http));
        assert_eq!(options.default_backend.as_deref(), Some("fast"));
        assert!(options.import_filter.allowed_ports.is_empty());
        assert_eq!(options.enabled_import_methods, ["web-download"]);
        for (name, text) in [
            ("OS_IMAGE_API__ENABLED_BACKENDS", "fast"),
            ("OS_IMAGE_API__ENABLED_BACKENDS", "fast:swift"),
            ("OS_IMPORT_FILTERING_OPTS__ALLOWED_PORTS", "http"),
            ("OS_IMAGE_API__ENABLED_IMPORT_METHODS", "[magic]"),
        ] {
            assert!(image_options(&config(&[(name, text)])).is_err(), "{text}");
        }
    }

    #[test]
    fn import_plugins_are_named_and_set_up() {
        let plugins = |pairs: &[(&str, &str)]| {
            image_options(&config(pairs)).map(|options| options.import_plugins)
        };
        let listed = (
            "OS_IMAGE_IMPORT_OPTS__IMAGE_IMPORT_PLUGINS",
            "['image_conversion', 'inject_image_metadata']",
        );
        let inject = ("OS_INJECT_METADATA_PROPERTIES__INJECT", "a:b, hw_c:d:e");
        let format = ("OS_IMAGE_CONVERSION__OUTPUT_FORMAT", "qcow2");
        let given = plugins(&[listed, inject, format]).unwrap();
        assert_eq!(given.image_conversion, Some(ConversionFormat::Qcow2));
        let vmdk = plugins(&[listed, inject, (format.0, "vmdk")]).unwrap();
        assert_eq!(vmdk.image_conversion, Some(ConversionFormat::Vmdk));
        let metadata = given.inject_image_metadata.unwrap();
        assert_eq!(metadata.ignore_user_roles, ["admin"]);
        let value = |name: &str| metadata.inject.get(name).map(String::as_str);
        assert_eq!((value("a"), value("hw_c")), (Some("b"), Some("d:e")));
        for inject in ["a", "status:active", ":b"] {
            let inject = ("OS_INJECT_METADATA_PROPERTIES__INJECT", inject);
            assert!(plugins(&[listed, inject]).is_err(), "{}", inject.1);
        }
        assert!(plugins(&[(listed.0, "[other]")]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("5 GB", Some(5 << 30)),
            ("12B", Some(12)),
            ("5XB", None),
            ("GB", None),
            ("99999999999TB", None),
        ] {
            let quota = storage_quota(&config(&[("OS_IMAGE_API__USER_STORAGE_QUOTA", text)]));
            assert_eq!(quota.ok(), bytes, "{text}");
        }
    }
}
