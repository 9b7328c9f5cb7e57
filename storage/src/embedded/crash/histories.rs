//! Power cuts, failures and full disks at every point of short histories, and now and then in long
//! ones.

use super::steps::history;
use super::*;

/// Cuts the power at every single request of short histories, and then again during recovery.
#[test]
fn every_cut_of_short_histories_is_survived() {
    for seed in 1..=6 {
        let mut whole = World::new(seed, 1 << 30);
        let count = history(&mut whole, 25).unwrap();
        for cut in 0..count {
            let mut world = World::new(seed, 1 << 30);
            world.disk.platter().left = Some(cut);
            let outcome = history(&mut world, 25);
            world.shard = None;
            world.disk.lose_power();
            if outcome.is_err() && world.disk.length_of(FileId::Superblock) == 0 {
                continue;
            }
            let saved = (world.model.clone(), world.doubt.clone());
            let copy = world.disk.copy(seed ^ cut);
            world.recover();
            // The same remains of the disk, and the power goes again while it recovers.
            let mut again = World::new(seed, 1 << 30);
            again.disk = copy;
            (again.model, again.doubt) = saved;
            again.disk.platter().left = Some(again.random.below(30) + cut % 7);
            let _ = again.open();
            again.shard = None;
            again.disk.lose_power();
            again.recover();
        }
    }
}

/// One write or sync fails, at every single request of short histories; then the power goes, or
/// the process. What was answered before is there, and nothing was answered after.
#[test]
fn every_failure_of_short_histories_is_survived() {
    for seed in 40..44 {
        let mut whole = World::new(seed, 1 << 30);
        let count = history(&mut whole, 25).unwrap();
        for at in 0..count {
            let mut world = World::new(seed, 1 << 30);
            world.disk.platter().fails_after = Some(at);
            let outcome = history(&mut world, 25);
            world.shard = None;
            match at % 2 {
                0 => world.disk.lose_power(),
                _ => world.disk.lose_process(),
            }
            if outcome.is_err() && world.disk.length_of(FileId::Superblock) == 0 {
                continue;
            }
            world.recover();
        }
    }
}

/// Each growth of a file finds the disk full, once.
#[test]
fn every_growth_may_find_the_disk_full() {
    for seed in 50..54 {
        let run = |full_after: Option<u64>| {
            let mut world = World::new(seed, 1 << 30);
            world.disk.platter().full_after = full_after;
            if history(&mut world, 1).is_err() {
                // While the store is made.
                assert!(full_after.is_some_and(|growth| growth < 4));
                world.shard = None;
                history(&mut world, 1).unwrap();
            }
            world.create_large("big");
            let big = world.id_of("big");
            for place in 0..40 {
                let answer = world.write_large(big, place);
                match world.wait_for(answer) {
                    Ok(()) => {}
                    Err(Error::OutOfSpace) => world.shard.as_mut().unwrap().tick(),
                    Err(error) => panic!("{error}"),
                }
            }
            world.remove_large("big");
            history(&mut world, 60).unwrap();
            world.check();
            let growths = world.disk.platter().growths;
            world.shard = None;
            world.disk.lose_power();
            world.recover();
            world.clear();
            growths
        };
        let growths = run(None);
        assert!(growths >= 5, "{growths}");
        for growth in 0..growths {
            run(Some(growth));
        }
    }
}

/// Small writes all over a huge image: each makes pages of its own, and a checkpoint needs a
/// unit for each. However full the store is, it goes on, and a removal gives all back.
#[test]
fn a_full_store_of_many_pages_goes_on() {
    for seed in 60..64 {
        let mut world = World::new(seed, (20 + 16 * (seed % 2)) << 20);
        world.begin();
        let image = spec("huge");
        let plan = move |c: &mut super::super::catalogue::Catalogue| {
            c.plan_create(&image, 1 << 50).map(Plan::Change)
        };
        world.plan(Box::new(plan)).unwrap();
        let huge = world.id_of("huge");
        let mut refused = 0;
        let mut written = 0;
        while refused < 300 {
            let mut answers = Vec::new();
            for _ in 0..200 {
                let block = world.random.below(1 << 38);
                let data: Bytes = bytes_of(7).into();
                let (reply, answer) = oneshot::channel();
                let request = Request::Change(Change::new(huge, parts(block, &data), reply));
                world.shard.as_mut().unwrap().submit(request);
                answers.push(answer);
            }
            for answer in answers {
                match world.wait_for(answer) {
                    Ok(()) => written += 1,
                    Err(Error::OutOfSpace) => refused += 1,
                    Err(error) => panic!("after {written} writes: {error}"),
                }
            }
        }
        assert!(written > 400, "{written}");
        world.shard = None;
        world.disk.lose_power();
        world.open().unwrap();
        world.check();
        world.remove_large("huge");
        world.ask(Request::Settle).unwrap();
        world.save().unwrap();
        world.check();
        world.create_large("a");
        let image = world.id_of("a");
        let answer = world.write_large(image, 0);
        world.wait_for(answer).unwrap();
    }
}

/// Long histories with a power loss, a death or a failure now and then.
#[test]
fn long_histories_survive_what_comes() {
    let first: u64 = std::env::var("STORE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(100);
    let count: u64 = std::env::var("STORE_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(12);
    for seed in first..first + count {
        let mut world = World::new(seed, 1 << 30);
        history(&mut world, 1).unwrap();
        for round in 0..25 {
            eprintln!("seed {seed} round {round}");
            let luck = world.random.below(4);
            let within = world.random.below(300);
            match luck {
                0 => world.disk.platter().left = Some(within),
                1 => world.disk.platter().fails_after = Some(within),
                _ => {}
            }
            let steps = world.random.below(60);
            let outcome = history(&mut world, steps);
            if luck >= 2 {
                outcome.unwrap();
            }
            world.shard = None;
            if luck == 2 {
                // Everything that was answered is on the disk.
                world.model.flush();
                world.disk.lose_process();
            } else {
                world.disk.lose_power();
            }
            world.recover();
        }
        world.clear();
    }
}

/// A disk with little room: writes are refused, removing works, and then writes do.
#[test]
fn a_full_disk_is_an_error_and_no_more() {
    for seed in 200..206 {
        let mut world = World::new(seed, 28 << 20);
        history(&mut world, 1).unwrap();
        for _ in 0..6 {
            history(&mut world, 80).unwrap();
            world.shard.as_mut().unwrap().tick();
            if world.random.chance(50) {
                world.shard = None;
                world.disk.lose_power();
                world.recover();
            }
        }
        world.check();
        world.clear();
        world.create("a").unwrap();
        let id = world
            .shard
            .as_ref()
            .unwrap()
            .state
            .catalogue
            .id(&spec("a"))
            .unwrap();
        let data: Bytes = bytes_of(5).repeat(BLOCKS as usize).into();
        world
            .ask(|reply| Request::Change(Change::new(id, parts(0, &data), reply)))
            .unwrap();
        world.check();
    }
}

/// A limit on what images keep is met exactly.
#[test]
fn a_limit_is_exact() {
    let mut world = World::new(3, 1 << 30);
    world.settings.limit_units = Some(BLOCKS);
    history(&mut world, 0).unwrap();
    for name in ["a", "b"] {
        world.create(name).unwrap();
    }
    let ids = ["a", "b"].map(|name| {
        world
            .shard
            .as_ref()
            .unwrap()
            .state
            .catalogue
            .id(&spec(name))
            .unwrap()
    });
    let write = |world: &mut World, id: u64, first: u64, count: u64, value: Value| {
        let data: Bytes = bytes_of(value).repeat(count as usize).into();
        world.ask(|reply| Request::Change(Change::new(id, parts(first, &data), reply)))
    };
    write(&mut world, ids[0], 0, BLOCKS - 1, 1).unwrap();
    assert!(matches!(
        write(&mut world, ids[1], 0, 2, 2),
        Err(Error::OutOfSpace)
    ));
    write(&mut world, ids[1], 0, 1, 3).unwrap();
    // What replaces as much as it needs fits.
    write(&mut world, ids[0], 0, BLOCKS - 1, 4).unwrap();
    assert!(matches!(
        write(&mut world, ids[1], 7, 1, 5),
        Err(Error::OutOfSpace)
    ));
    world.check();
}
