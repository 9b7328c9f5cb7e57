//! Users, projects, roles and the catalog, as the options name them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{CatalogService, DevOptions, DevOptionsError};
use crate::Secret;

/// Keystone's default roles and the services' own; always there.
const ROLES: &[&str] = &["admin", "manager", "member", "reader", "service"];

/// What a role brings with it (Keystone's implied roles).
const IMPLIED: &[(&str, &[&str])] = &[
    ("admin", &["manager", "member", "reader"]),
    ("manager", &["member", "reader"]),
    ("member", &["reader"]),
];

#[derive(Debug)]
pub(super) struct User {
    pub id: String,
    pub name: String,
    pub password: Option<Secret>,
    /// Roles by project id, implied ones included.
    pub grants: BTreeMap<String, Vec<String>>,
    pub system_roles: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Project {
    pub id: String,
    pub name: String,
}

#[derive(Debug)]
pub(super) struct Role {
    pub id: String,
    pub name: String,
}

#[derive(Debug)]
pub(super) struct Service {
    pub id: String,
    pub entry: CatalogService,
}

#[derive(Debug)]
pub(super) struct Directory {
    users: BTreeMap<String, User>,
    projects: BTreeMap<String, Project>,
    roles: BTreeMap<String, Role>,
    pub services: Vec<Service>,
    pub region: String,
}

impl Directory {
    pub fn new(options: &DevOptions) -> Result<Self, DevOptionsError> {
        let granted = options
            .users
            .iter()
            .flat_map(|user| user.grants.iter().map(|(name, _)| name));
        let projects = granted.chain(&options.projects).map(|name| {
            let id = derived_id("project", name);
            (
                id.clone(),
                Project {
                    id,
                    name: name.clone(),
                },
            )
        });
        let used = options.users.iter().flat_map(|user| {
            user.grants
                .iter()
                .flat_map(|(_, roles)| roles)
                .chain(&user.system_roles)
        });
        let roles = ROLES
            .iter()
            .copied()
            .chain(used.map(String::as_str))
            .map(|name| {
                let id = derived_id("role", name);
                (
                    id.clone(),
                    Role {
                        id,
                        name: name.to_owned(),
                    },
                )
            });
        let services = options.catalog.iter().map(|entry| Service {
            id: derived_id("service", &entry.kind),
            entry: entry.clone(),
        });
        let mut directory = Self {
            users: BTreeMap::new(),
            projects: projects.collect(),
            roles: roles.collect(),
            services: services.collect(),
            region: options.region.clone(),
        };
        for user in &options.users {
            let id = user
                .id
                .clone()
                .unwrap_or_else(|| derived_id("user", &user.name));
            let mut grants: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (project, roles) in &user.grants {
                let held = grants.entry(derived_id("project", project)).or_default();
                *held = with_implied(held.iter().chain(roles));
            }
            let user = User {
                id: id.clone(),
                name: user.name.clone(),
                password: user.password.clone(),
                grants,
                system_roles: with_implied(&user.system_roles),
            };
            if directory.user_named(&user.name).is_some() || directory.users.contains_key(&id) {
                return Err(DevOptionsError::Duplicate(id));
            }
            directory.users.insert(id, user);
        }
        Ok(directory)
    }

    pub fn user(&self, id: &str) -> Option<&User> {
        self.users.get(id)
    }

    pub fn user_named(&self, name: &str) -> Option<&User> {
        self.users
            .values()
            .find(|user| user.name.eq_ignore_ascii_case(name))
    }

    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    pub fn project(&self, id: &str) -> Option<&Project> {
        self.projects.get(id)
    }

    pub fn project_named(&self, name: &str) -> Option<&Project> {
        self.projects
            .values()
            .find(|project| project.name.eq_ignore_ascii_case(name))
    }

    pub fn projects(&self) -> impl Iterator<Item = &Project> {
        self.projects.values()
    }

    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }
}

fn with_implied<'a>(roles: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut add = |role: &str| {
        if !all.iter().any(|held| held == role) {
            all.push(role.to_owned());
        }
    };
    for role in roles {
        add(role);
        let implied = IMPLIED.iter().find(|(name, _)| name == role);
        implied
            .into_iter()
            .flat_map(|(_, implied)| *implied)
            .for_each(|role| add(role));
    }
    all
}

/// The id that a thing of this name has on every machine: 32 hex digits, as Keystone's are.
pub fn derived_id(kind: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("{kind}\0{name}"));
    digest
        .iter()
        .take(16)
        .fold(String::with_capacity(32), |mut id, byte| {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        })
}
