//! Who may see what of the mesh in a cluster: its own roles and bindings (`rbac.authorization.k8s.io`), judged here as its API server judges
//! them. Other authorizers of a cluster are not asked.

use crate::rbac::{Grants, Objects};
use crate::world::keep::{Cache, Watched, follow};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Resource;
use kube::api::Api;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const QUIET: Duration = Duration::from_millis(50);
const AT_MOST: Duration = Duration::from_millis(500);

/// Tells what the roles come to whenever they change, until `shutdown`.
pub async fn run(client: kube::Client, tell: impl Fn(Arc<Grants>) + Send, shutdown: CancellationToken) {
    let (dirty, mut changed) = watch::channel(0);
    let (mut tasks, mut listed, dirty) = (JoinSet::new(), Vec::new(), Arc::new(dirty));
    let mut kind = |reader: &Reader<'_>| {
        let (cache, is_listed) = reader(dirty.clone(), &mut tasks);
        listed.push(is_listed);
        cache
    };
    let roles = kind(&|dirty, tasks| read::<Role>(&client, dirty, tasks));
    let cluster_roles = kind(&|dirty, tasks| read::<ClusterRole>(&client, dirty, tasks));
    let role_bindings = kind(&|dirty, tasks| read::<RoleBinding>(&client, dirty, tasks));
    let cluster_role_bindings = kind(&|dirty, tasks| read::<ClusterRoleBinding>(&client, dirty, tasks));
    let all = |cache: &Cache<Arc<Value>>| cache.copy().values().map(|value| Value::clone(value)).collect();
    let following = async {
        for mut one in listed {
            if one.wait_for(|listed| *listed).await.is_err() {
                return;
            }
        }
        loop {
            let alive = crate::world::reconcile::settle(&mut changed, QUIET, AT_MOST).await;
            let objects = Objects {
                roles: all(&roles),
                cluster_roles: all(&cluster_roles),
                role_bindings: all(&role_bindings),
                cluster_role_bindings: all(&cluster_role_bindings),
            };
            tell(Arc::new(Grants::compile(&objects)));
            if !alive || changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = following => shutdown.cancelled().await,
        () = shutdown.cancelled() => {}
    }
}

/// Begins to read a kind.
type Reader<'r> = dyn Fn(Arc<watch::Sender<u64>>, &mut JoinSet<()>) -> Read + 'r;

/// What is read of a kind, and whether it was listed.
type Read = (Arc<Cache<Arc<Value>>>, watch::Receiver<bool>);

fn read<K>(client: &kube::Client, dirty: Arc<watch::Sender<u64>>, tasks: &mut JoinSet<()>) -> Read
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let cache: Arc<Cache<Arc<Value>>> = Arc::default();
    let (listed, is_listed) = watch::channel(false);
    let (kind, versions) = (K::kind(&()).into_owned(), vec![Api::<K>::all(client.clone())]);
    let watched = Watched { kind, versions, spoken: Box::new(|_| {}), dirty, listed };
    tasks.spawn(follow(watched, cache.clone(), |mut object: K, _: Option<&Arc<Value>>| {
        object.meta_mut().managed_fields = None;
        serde_json::to_value(&object).ok().map(Arc::new)
    }));
    (cache, is_listed)
}
