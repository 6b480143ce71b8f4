//! Worker Deployments: a row for each, and one for each of its versions. What they mean is the kernel's (`kernel/src/deployment`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::deployment::{Deployment, DeploymentVersion};
use everlog_kernel::{Deployments, NamespaceId, Rejection, Time};
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;

use super::change::now;
use super::operations::Answer;
use super::view::{self, View};
use super::{MetaError, Namespaces};

/// In front of the keys of these rows, behind their kind. Behind it stand the namespace, the name of the deployment, and behind a `:`, which
/// no such name has, the build id of a version.
const PREFIX: &[u8] = b"deployment/";

/// What lies under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeploymentKey {
    namespace_id: NamespaceId,
    deployment: String,
    build_id: Option<String>,
}

impl DeploymentKey {
    fn key(&self) -> Bytes {
        let version = self.build_id.as_ref().map(|build_id| format!(":{build_id}")).unwrap_or_default();
        let parts = [PREFIX, &self.namespace_id.0, self.deployment.as_bytes(), version.as_bytes()];
        meta_row(MetaKind::Other, &parts.concat())
    }

    /// `None` if it is the key of a row of another kind.
    pub(super) fn of_key(key: &[u8]) -> Option<Result<DeploymentKey, MetaError>> {
        let rest = key.strip_prefix(&*meta_row(MetaKind::Other, PREFIX))?;
        let read = || {
            let (namespace, rest) = rest.split_first_chunk()?;
            let names = std::str::from_utf8(rest).ok()?;
            let (deployment, build_id) =
                names.split_once(':').map_or((names, None), |(deployment, build_id)| (deployment, Some(build_id)));
            Some(DeploymentKey {
                namespace_id: NamespaceId(*namespace),
                deployment: deployment.to_owned(),
                build_id: build_id.map(str::to_owned),
            })
        };
        Some(read().ok_or_else(|| MetaError::Corrupt(format!("key {key:?}"))))
    }
}

/// The rows that lead from one state of a deployment to another.
fn changes(
    namespace_id: NamespaceId,
    name: &str,
    before: Option<&Deployment>,
    after: Option<&Deployment>,
) -> Vec<RowChange> {
    let key = |build_id: Option<&String>| {
        DeploymentKey { namespace_id, deployment: name.to_owned(), build_id: build_id.cloned() }.key()
    };
    let nothing = BTreeMap::new();
    let (was, is) = (before.map_or(&nothing, |one| &one.versions), after.map_or(&nothing, |one| &one.versions));
    let mut rows: Vec<RowChange> = was
        .keys()
        .filter(|build_id| !is.contains_key(*build_id))
        .map(|build_id| RowChange::Delete { key: key(Some(build_id)) })
        .collect();
    // The deployment comes before its versions, as in the order of keys.
    match (before.map(Deployment::to_row), after.map(Deployment::to_row)) {
        (was, Some(is)) if was.as_ref() != Some(&is) => rows.push(RowChange::Put { key: key(None), value: is }),
        (Some(_), None) => rows.push(RowChange::Delete { key: key(None) }),
        _ => {}
    }
    for (build_id, version) in is {
        if was.get(build_id) != Some(version) {
            rows.push(RowChange::Put { key: key(Some(build_id)), value: version.to_row() });
        }
    }
    rows
}

impl View {
    /// Deletes all deployments of a namespace.
    pub(super) fn deployment_rows_gone(&self, namespace_id: NamespaceId) -> Vec<RowChange> {
        let deployments = self.deployments.get(&namespace_id).cloned().unwrap_or_default();
        let gone = |deployment: &Arc<Deployment>| changes(namespace_id, &deployment.name, Some(deployment), None);
        deployments.iter().flat_map(gone).collect()
    }

    /// Takes in a row, or that it is gone. A version whose deployment is not there is about to go as well.
    pub(super) fn put_deployment(&mut self, row: &DeploymentKey, value: Option<&Bytes>) -> Result<(), MetaError> {
        let corrupt = |error| MetaError::Corrupt(format!("deployment {:?}: {error}", row.deployment));
        let known = self.deployments.get(&row.namespace_id).cloned().unwrap_or_default();
        let before = known.get(&row.deployment).map(|deployment| Deployment::clone(deployment));
        let after = match (&row.build_id, value) {
            (None, None) => None,
            (None, Some(value)) => {
                let read = Deployment::from_row(&row.deployment, value).map_err(corrupt)?;
                let versions = before.map(|before| before.versions).unwrap_or_default();
                Some(Deployment { versions, ..read })
            }
            (Some(build_id), value) => before
                .map(|mut deployment| {
                    match value {
                        Some(value) => {
                            let version = DeploymentVersion::from_row(value).map_err(corrupt)?;
                            deployment.versions.insert(build_id.clone(), Arc::new(version));
                        }
                        None => drop(deployment.versions.remove(build_id)),
                    }
                    Ok::<_, MetaError>(deployment)
                })
                .transpose()?,
        };
        let others = known.iter().filter(|other| other.name != row.deployment).cloned();
        let deployments = Arc::new(Deployments::new(others.chain(after.map(Arc::new))));
        if deployments.is_empty() {
            self.deployments.remove(&row.namespace_id);
        } else {
            self.deployments.insert(row.namespace_id, Arc::clone(&deployments));
        }
        if let Some(record) = self.by_id.get(&row.namespace_id) {
            let record = Arc::new(super::NamespaceRecord::clone(record).with_deployments(Some(deployments)));
            self.by_name.insert(record.name().to_owned(), Arc::clone(&record));
            self.by_id.insert(row.namespace_id, record);
        }
        Ok(())
    }
}

impl Namespaces {
    /// The deployments of a namespace.
    pub fn deployments(&self, namespace_id: NamespaceId) -> Arc<Deployments> {
        self.view.borrow().deployments.get(&namespace_id).cloned().unwrap_or_default()
    }

    /// All namespaces with deployments.
    pub fn all_deployments(&self) -> Vec<(NamespaceId, Arc<Deployments>)> {
        self.view.borrow().deployments.iter().map(|(id, deployments)| (*id, Arc::clone(deployments))).collect()
    }

    /// Changes a deployment, which `change` is given with the time, and all of the namespace as they are; `None` is one that is not there, or
    /// not any more. `change` is called again when another change of the metadata came first.
    ///
    /// # Errors
    ///
    /// [`MetaError::NotFound`] if there is no such namespace, [`MetaError::Rejected`] for what `change` returns, and see there.
    pub async fn change_deployment<T: Answer>(
        &self,
        namespace_id: NamespaceId,
        name: &str,
        change: impl Fn(&mut Option<Deployment>, &Deployments, Time) -> Result<T, Rejection>,
    ) -> Result<T, MetaError> {
        self.change_once(|view| {
            if !view.by_id.contains_key(&namespace_id) {
                return Err(MetaError::NotFound(namespace_id.to_string()));
            }
            let known = view.deployments.get(&namespace_id).cloned().unwrap_or_default();
            let before = known.get(name).map(|deployment| &**deployment);
            let mut after = before.cloned();
            let outcome = change(&mut after, &known, now()).map_err(MetaError::Rejected)?;
            Ok((changes(namespace_id, name, before, after.as_ref()), outcome))
        })
        .await
    }

    /// Tells of the deployments of all namespaces, and of each that changes from then on, for as long as there is metadata.
    pub async fn follow_deployments(&self, mut tell: impl FnMut(NamespaceId, &Arc<Deployments>)) {
        let none = Arc::new(Deployments::default());
        let tell = |namespace_id: &NamespaceId, deployments: Option<&Arc<Deployments>>| {
            tell(*namespace_id, deployments.unwrap_or(&none));
        };
        view::follow(self.view.clone(), |view| &view.deployments, tell).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_always_were() {
        let row = |build_id: Option<&str>| DeploymentKey {
            namespace_id: NamespaceId([7; 16]),
            deployment: "d".to_owned(),
            build_id: build_id.map(str::to_owned),
        };
        let (deployment, version) = (row(None), row(Some("1:0")));
        assert!(
            deployment.key().ends_with(b"deployment/\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07d")
        );
        assert!(version.key().ends_with(b"\x07d:1:0"));
        for row in [deployment, version] {
            assert_eq!(DeploymentKey::of_key(&row.key()), Some(Ok(row)));
        }
        assert_eq!(DeploymentKey::of_key(&meta_row(MetaKind::Other, b"slots")), None);
        let damaged = meta_row(MetaKind::Other, b"deployment/abc");
        assert!(matches!(DeploymentKey::of_key(&damaged), Some(Err(MetaError::Corrupt(_)))));
    }

    #[test]
    fn a_view_is_what_its_rows_say() {
        let id = NamespaceId([7; 16]);
        let none = everlog_kernel::deployment::Unwatched::default();
        let queue = everlog_kernel::deployment::VersionQueue { kind: 1, name: "q".to_owned() };
        let mut first = Deployment::new("d", Time(1));
        first.register("1", queue.clone(), (9, 9), &none, Time(2)).unwrap();
        first.register("2", queue, (9, 9), &none, Time(3)).unwrap();
        let mut second = first.clone();
        second.delete_version("1", "me", false).unwrap();
        let mut view = View::default();
        let mut apply = |before: Option<&Deployment>, after: Option<&Deployment>| {
            for row in changes(id, "d", before, after) {
                let (key, value) = match row {
                    RowChange::Put { key, value } => (key, Some(value)),
                    RowChange::Delete { key } => (key, None),
                    other => panic!("{other:?}"),
                };
                view.put_deployment(&DeploymentKey::of_key(&key).unwrap().unwrap(), value.as_ref()).unwrap();
            }
            let found = view.deployments.get(&id).and_then(|deployments| deployments.get("d").cloned());
            assert_eq!(found.as_deref(), after);
        };
        apply(None, Some(&first));
        apply(Some(&first), Some(&second));
        apply(Some(&second), None);
        assert!(view.deployments.is_empty());
    }
}
