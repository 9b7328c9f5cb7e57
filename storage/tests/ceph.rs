//! The engine `ceph` on a real cluster: the conformance suite, what other clients do, hangs.
//!
//! The cluster is given by `BASALT_TEST_CEPH_CONF`; `tests/ceph` starts one and runs these. Its
//! pools `volumes` and `images` must be empty. Without it, these tests are left out.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use storage::ceph::{CephOptions, CephStore};
use storage::conformance::{self, Effort, Engine, Limits};
use storage::{Error, ImageSpec, ImageStore};

fn options() -> CephOptions {
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    CephOptions {
        conf: Some(PathBuf::from(conf)),
        op_timeout: Duration::from_secs(20),
        ..Default::default()
    }
}

struct Cluster(CephOptions);

#[async_trait]
impl Engine for Cluster {
    async fn open(&self) -> Result<Arc<dyn ImageStore>, Error> {
        Ok(Arc::new(CephStore::connect(self.0.clone()).await?))
    }

    fn limits(&self) -> Limits {
        Limits {
            // 262,144 objects: each of them is asked when there is no object map.
            image_bytes: 1 << 40,
            counts_at_once: false,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn conforms() {
    let seed = std::env::var("BASALT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let steps = std::env::var("BASALT_TEST_STEPS").map_or(200, |steps| steps.parse().unwrap());
    let cluster = Cluster(options());
    conformance::run(&cluster, Effort { seed, steps })
        .await
        .unwrap();
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

/// Runs a command of the environment variable, or one of Ceph's.
fn shell(command: &str) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn rbd(arguments: &str) -> String {
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    shell(&format!("rbd -c {conf} {arguments}"))
}

/// Addresses of the clients that have an image open for writing.
fn watchers(image: &str) -> Vec<String> {
    let status = rbd(&format!("status {image} --format json"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let all = status["watchers"].as_array().unwrap().iter();
    all.map(|one| one["address"].as_str().unwrap().to_owned())
        .collect()
}

fn unavailable<T>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::Unavailable(_)) => true,
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn a_cluster_that_hangs_is_unavailable_until_it_is_back() {
    let options = CephOptions {
        op_timeout: Duration::from_secs(3),
        ..options()
    };
    let store = CephStore::connect(options).await.unwrap();
    let image = spec("hang");
    store.create(&image, 8 << 20).await.unwrap();
    let handle = store.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    let other = spec("other");
    shell(&std::env::var("BASALT_TEST_CEPH_PAUSE").unwrap());
    let (write, read, create, info, flush) = tokio::join!(
        handle.write(4096, Bytes::from(vec![2; 4096])),
        handle.read(0, 4096),
        store.create(&other, 1),
        store.info(&image),
        handle.flush(),
    );
    shell(&std::env::var("BASALT_TEST_CEPH_RESUME").unwrap());
    assert!(unavailable(write) && unavailable(create) && unavailable(info));
    assert!(unavailable(read));
    // There was nothing left to flush, or nobody to say so.
    if let Err(error) = flush {
        assert!(unavailable::<()>(Err(error)));
    }
    drop(handle);
    // What did not answer is repeated until it does.
    let mut tries = 0;
    loop {
        let write = match store.open(&image, None).await {
            Ok(handle) => handle.write(4096, Bytes::from(vec![3; 4096])).await,
            Err(error) => Err(error),
        };
        if !unavailable(write) {
            break;
        }
        tries += 1;
        assert!(tries < 60, "the store does not come back");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let handle = store.open(&image, None).await.unwrap();
    let data = handle.read(0, 8192).await.unwrap();
    assert!(data[..4096].iter().all(|byte| *byte == 1));
    assert!(data[4096..].iter().all(|byte| *byte == 3));
    drop(handle);
    match store.create(&other, 1).await {
        Ok(()) | Err(Error::Exists(_)) => {}
        Err(error) => panic!("{error}"),
    }
    store.remove(&other).await.unwrap();
    store.remove(&image).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn a_client_that_was_blocklisted_connects_again() {
    let store = CephStore::connect(options()).await.unwrap();
    let mut addresses = store.client_addresses();
    let image = spec("listed");
    store.create(&image, 8 << 20).await.unwrap();
    let handle = store.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    let address = watchers("volumes/listed").remove(0);
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    shell(&format!("ceph -c {conf} osd blocklist add {address} 60"));
    let mut tries = 0;
    while !unavailable(handle.write(0, Bytes::from(vec![2; 4096])).await) {
        tries += 1;
        assert!(tries < 30, "a blocklisted client writes");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Whoever is to fence this client when it dies must know the new one.
    assert!(!addresses.has_changed().unwrap());
    let handle = store.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![3; 4096])).await.unwrap();
    assert_eq!(handle.read(0, 1).await.unwrap()[..], [3]);
    assert!(addresses.has_changed().unwrap());
    let new = addresses.borrow_and_update().clone();
    assert!(
        watchers("volumes/listed")
            .iter()
            .all(|one| new.contains(one))
    );
    drop(handle);
    store.remove(&image).await.unwrap();
    store.close().await.unwrap();
}

/// What other clients leave: a snapshot whose clone lives, gone into the trash with its image.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn what_still_has_clones_is_purged_when_they_have_gone() {
    let store = CephStore::connect(options()).await.unwrap();
    let id = uuid::Uuid::new_v4();
    let (image, clone) = (spec(&id.to_string()), spec("clone-of-it"));
    store.create(&image, 8 << 20).await.unwrap();
    store.create_snapshot(&image.at("snap")).await.unwrap();
    store.protect_snapshot(&image.at("snap")).await.unwrap();
    store.clone_image(&image.at("snap"), &clone).await.unwrap();
    assert!(matches!(
        store.unprotect_snapshot(&image.at("snap")).await,
        Err(Error::Busy { children, .. }) if children == [clone.clone()]
    ));
    rbd(&format!("snap unprotect volumes/{id}@snap"));
    rbd(&format!("snap rm volumes/{id}@snap"));
    assert!(store.info(&image).await.unwrap().snapshots.is_empty());
    store.remove(&image).await.unwrap();
    assert!(matches!(store.info(&image).await, Err(Error::NotFound(_))));
    assert_eq!(store.purge("volumes").await.unwrap(), [""; 0]);
    store.remove(&clone).await.unwrap();
    assert_eq!(store.purge("volumes").await.unwrap(), [id.to_string()]);
    store.close().await.unwrap();
}

/// A removal goes through the trash; a crash may leave the image there, on its way or arrived.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn a_removal_that_a_crash_ended_is_finished() {
    /// Moves the image to the trash as a removal does, and leaves it in this state.
    const CUT: &str = "import rados,rbd,struct,sys\n\
        conf,name,state=sys.argv[1:]\n\
        with rados.Rados(rados_id='admin',conffile=conf) as cluster, cluster.open_ioctx('volumes') as pool:\n \
        rbd.RBD().trash_move(pool,name,0)\n \
        found=[one for one in rbd.RBD().trash_list(pool) if one['name']==name][-1]['id']\n \
        key='id_'+found\n \
        with rados.ReadOpCtx() as read:\n  \
        values,_=pool.get_omap_vals_by_keys(read,(key,))\n  \
        pool.operate_read_op(read,'rbd_trash')\n  \
        value=bytearray(dict(values)[key])\n \
        value[6]=3\n \
        value[-1]=int(state)\n \
        with rados.WriteOpCtx() as write:\n  \
        pool.set_omap(write,(key,),(bytes(value),))\n  \
        pool.operate_write_op(write,'rbd_trash')\n";
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    let cut = |name: &str, state: u8| {
        shell(&format!(
            "/usr/bin/python3 -c \"{CUT}\" {conf} {name} {state}"
        ));
    };
    let store = CephStore::connect(options()).await.unwrap();
    let image = spec("cut");
    for state in [0, 1] {
        store.create(&image, 8 << 20).await.unwrap();
        cut("cut", state);
        // Whoever makes it anew finds nothing; whoever removes it, removes both.
        store.create(&image, 8 << 20).await.unwrap();
        store.remove(&image).await.unwrap();
        // It would be listed also from there.
        assert!(!rbd("ls volumes").contains("cut"));
        store.create(&image, 8 << 20).await.unwrap();
        cut("cut", state);
        store.remove(&image).await.unwrap();
        assert!(!rbd("ls volumes").contains("cut"));
    }
    assert!(matches!(
        store.remove(&image).await,
        Err(Error::NotFound(_))
    ));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn deferred_images_wait_in_the_trash() {
    let store = CephStore::connect(options()).await.unwrap();
    let image = spec(&format!("volume-{}", uuid::Uuid::new_v4()));
    let deferring = store.deferring_deletion(Duration::from_secs(3600));
    deferring.create(&image, 1).await.unwrap();
    deferring.remove(&image).await.unwrap();
    assert!(matches!(store.info(&image).await, Err(Error::NotFound(_))));
    assert_eq!(store.purge("volumes").await.unwrap(), [""; 0]);
    assert!(rbd("trash ls volumes").contains(&image.image));
    rbd("trash purge volumes --expired-before 2100-01-01");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn what_is_wrong_is_said() {
    let text = async |options: CephOptions| match CephStore::connect(options).await {
        Err(Error::Unavailable(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    };
    let nowhere = CephOptions {
        conf: Some("/nowhere/ceph.conf".into()),
        ..options()
    };
    assert!(
        text(nowhere)
            .await
            .contains("cannot read /nowhere/ceph.conf")
    );
    let stranger = CephOptions {
        user: "stranger".into(),
        ..options()
    };
    assert!(text(stranger).await.contains("client.stranger"));
    let store = CephStore::connect(options()).await.unwrap();
    match store.ensure_pool("nowhere").await {
        Err(Error::NotFound(text)) => assert!(text.contains("ceph osd pool create nowhere")),
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
}

/// The image that a dead client had open is nobody's at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn a_fenced_client_holds_nothing() {
    let dead = CephStore::connect(options()).await.unwrap();
    let image = spec("fenced");
    dead.create(&image, 8 << 20).await.unwrap();
    let handle = dead.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    let addresses = dead.client_addresses().borrow().clone();
    let store = CephStore::connect(options()).await.unwrap();
    store.fence(&addresses).await.unwrap();
    store.remove(&image).await.unwrap();
    store.close().await.unwrap();
    drop(handle);
    dead.close().await.unwrap();
}

/// Two managers of one pool: the one that wrote last has the image's lock.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn an_image_that_another_client_has_locked_is_rolled_back() {
    let [one, other] = [
        CephStore::connect(options()).await.unwrap(),
        CephStore::connect(options()).await.unwrap(),
    ];
    let image = spec("locked");
    let snapshot = image.at("before");
    one.create(&image, 8 << 20).await.unwrap();
    one.create_snapshot(&snapshot).await.unwrap();
    let handle = other.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    one.roll_back(&snapshot).await.unwrap();
    let read = handle.read(0, 4096).await.unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    // The lock goes back and forth.
    handle.write(0, Bytes::from(vec![2; 4096])).await.unwrap();
    one.roll_back(&snapshot).await.unwrap();
    drop(handle);
    other.roll_back(&snapshot).await.unwrap();
    one.remove_snapshot(&snapshot).await.unwrap();
    one.remove(&image).await.unwrap();
    one.close().await.unwrap();
    other.close().await.unwrap();
}

/// A rename is of three objects; a crash may leave the image with two names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn a_rename_that_a_crash_ended_is_finished() {
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    let store = CephStore::connect(options()).await.unwrap();
    let give_name = |from: &str, to: &str| {
        let rados = format!("rados -c {conf} -p volumes");
        shell(&format!(
            "{rados} get rbd_id.{from} /dev/stdout | {rados} put rbd_id.{to} -"
        ));
    };
    let old = spec("before");
    for (is_listed_by_the_new, name) in [(false, "after-1"), (true, "after-2")] {
        store.create(&old, 8 << 20).await.unwrap();
        if is_listed_by_the_new {
            rbd(&format!("rename volumes/before volumes/{name}"));
            give_name(name, "before");
        } else {
            give_name("before", name);
        }
        store.rename(&old, name).await.unwrap();
        assert!(matches!(store.info(&old).await, Err(Error::NotFound(_))));
        assert_eq!(store.images("volumes").await.unwrap(), [name]);
        store.create(&old, 8 << 20).await.unwrap();
        // Two images are not one.
        assert!(matches!(
            store.rename(&old, name).await,
            Err(Error::Exists(_))
        ));
        store.remove(&old).await.unwrap();
        store.remove(&spec(name)).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn shared_images_do_without_a_lock() {
    let store = CephStore::connect(options()).await.unwrap();
    let image = spec("shared");
    store.create(&image, 8 << 20).await.unwrap();
    let features = || {
        let info = rbd("info volumes/shared --format json");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let flags = info["flags"].as_array().unwrap().len();
        (info["features"].as_array().unwrap().len(), flags)
    };
    let before = features();
    for _ in 0..2 {
        store.share_writes(&image, true).await.unwrap();
    }
    assert_eq!(before.0 - features().0, 3);
    let handle = store.open(&image, None).await.unwrap();
    handle.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    drop(handle);
    for _ in 0..2 {
        store.share_writes(&image, false).await.unwrap();
    }
    // The object map knows of what was written meanwhile.
    assert_eq!((before, features().1), (features(), 0));
    assert_eq!(store.used_bytes(&image).await.unwrap(), 4 << 20);
    store.remove(&image).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn usage_tells_whose_the_objects_are() {
    const OBJECT: u64 = 4 << 20;
    let store = CephStore::connect(options()).await.unwrap();
    let (image, clone) = (spec("parent"), spec("clone"));
    store.create(&image, 4 * OBJECT).await.unwrap();
    let handle = store.open(&image, None).await.unwrap();
    for object in 0..3 {
        let data = Bytes::from(vec![1; 4096]);
        handle.write(object * OBJECT, data).await.unwrap();
    }
    let snapshot = image.at("snap");
    store.create_snapshot(&snapshot).await.unwrap();
    store.protect_snapshot(&snapshot).await.unwrap();
    handle.write(0, Bytes::from(vec![2; 4096])).await.unwrap();
    drop(handle);
    store.clone_image(&snapshot, &clone).await.unwrap();
    let handle = store.open(&clone, None).await.unwrap();
    handle
        .write(3 * OBJECT, Bytes::from(vec![3; 4096]))
        .await
        .unwrap();
    drop(handle);
    let usage = store.usage("volumes").await.unwrap();
    let found: Vec<_> = usage
        .iter()
        .map(|one| {
            let name = one.snapshot.as_deref().unwrap_or("head");
            let objects = (one.used_bytes / OBJECT, one.exclusive_bytes / OBJECT);
            (
                one.image.image.as_str(),
                name,
                objects,
                one.parent.is_some(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("clone", "head", (4, 1), true),
            ("parent", "snap", (3, 3), false),
            ("parent", "head", (3, 1), false),
        ]
    );
    store.remove(&clone).await.unwrap();
    store.unprotect_snapshot(&snapshot).await.unwrap();
    store.remove_snapshot(&snapshot).await.unwrap();
    store.remove(&image).await.unwrap();
    store.close().await.unwrap();
}
