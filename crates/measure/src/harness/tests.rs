//! Runs of made programs: what is checked, what is kept, and how a killed run goes on.

use super::*;
use crate::suite::tests::SMALL;

/// A shell that answers as an arm; `$1` is the size, `$2` the number of samples.
const GOOD: &str = r#"
echo chatter
echo '{"schema":"calor.arm/1.0","event":"first"}'
s=5000
list=$s
i=1; while [ $i -lt $2 ]; do list="$list,$s"; i=$((i+1)); done
head='{"schema":"calor.arm/1.0","event":"done","first_ns":9,'
echo "$head\"samples_ns\":[$list],\"item_count\":$1,\"values\":[0.5,$1]}"
"#;

struct Place {
    folder: tempfile::TempDir,
    words: BTreeMap<String, String>,
    text: String,
}

impl Place {
    fn new(ours: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in [("ours.sh", ours), ("peer.sh", GOOD)] {
            std::fs::write(folder.path().join(name), script).unwrap();
        }
        let text = SMALL.replacen("\"{program}\"", "\"sh\", \"ours.sh\"", 1);
        let text = text.replace("\"{program}\"", "\"sh\", \"peer.sh\"");
        Self { folder, words: BTreeMap::new(), text }
    }

    fn run(&self, progress: &mut dyn Progress) -> Result<Vec<Sample>, MeasureError> {
        let suite = Suite::parse(Path::new("s.toml"), &self.text)?;
        let output = self.folder.path().join("out");
        let environment = json!({ "fingerprint": {} });
        let job = Job {
            suite: &suite,
            suite_text: &self.text,
            words: &self.words,
            cases: &[],
            arms: &[],
            output: &output,
            root: self.folder.path(),
            revision: json!({ "commit": "c", "dirty": false }),
            is_pair: false,
            environment: &environment,
        };
        run(&job, progress)?;
        let path = output.join(sample_file("c"));
        read_samples(&path, std::fs::File::open(&path).unwrap())
    }
}

#[track_caller]
fn check(ours: &str, outcome: Outcome, why: &str) {
    let all = Place::new(ours).run(&mut ()).unwrap();
    let mut ours = all.iter().filter(|it| it.arm == "ours");
    let found = ours.find(|it| it.outcome != Outcome::Ok).expect("a failure");
    assert_eq!(found.outcome, outcome, "{:?}", found.why);
    assert!(found.why.as_deref().unwrap_or_default().contains(why), "{:?}", found.why);
    assert!(found.good().is_none() && found.calls_ns().is_empty());
    // It is not tried again at this size, and its peer goes on.
    assert_eq!(all.iter().filter(|it| it.arm == "ours" && it.size == found.size).count(), 1);
    assert!(all.iter().filter(|it| it.arm == "peer").all(|it| it.outcome == Outcome::Ok));
}

#[test]
fn every_process_is_fresh_checked_and_kept() {
    let place = Place::new(GOOD);
    let all = place.run(&mut ()).unwrap();
    assert!(all.iter().all(|it| it.outcome == Outcome::Ok), "{all:?}");
    let count = |phase| all.iter().filter(|it| it.phase == phase).count();
    // Two sizes; times never differ, so rounds end at their least number.
    assert_eq!((count(Phase::Reference), count(Phase::Cold), count(Phase::Warm)), (2, 4, 8));
    let warm: Vec<&str> = all
        .iter()
        .filter(|it| it.phase == Phase::Warm && it.size == 1)
        .map(|it| it.arm.as_str())
        .collect();
    // The second round is the mirror of the first.
    assert_eq!([warm[0], warm[1]], [warm[3], warm[2]]);
    assert!(all.iter().all(|it| it.to_first_ns.unwrap() < it.process_ns));
    assert!(!place.folder.path().join("out").join(WORK_FOLDER).exists());
}

#[test]
fn what_went_wrong_is_no_sample() {
    check("exit 3", Outcome::Failed, "exit status: 3");
    check("echo no answer", Outcome::Failed, "no answer");
    check("kill -9 $$", Outcome::Failed, "signal: 9");
    check(&GOOD.replace("[0.5,", "[0.6,"), Outcome::WrongValue, "times the tolerance");
    check(&GOOD.replace("[0.5,", "[null,"), Outcome::Failed, "invalid type");
    check(&GOOD.replace(":$1,\\\"v", ":1,\\\"v"), Outcome::WrongSize, "1 items were computed");
    check(&GOOD.replace("s=5000", "s=0"), Outcome::WrongSize, "no time");
    check(&GOOD.replace("i=1;", "i=0;"), Outcome::WrongSize, "2 samples, 1 asked for");
    check(&format!("{GOOD}\nexit 1"), Outcome::Failed, "exit status: 1");
    check(&format!("echo died of it >&2; {GOOD}\nexit 1"), Outcome::Failed, "died of it");
}

#[test]
fn a_process_without_end_is_ended() {
    let mut place = Place::new("sleep 60");
    place.text = place.text.replace("timeout_s = 20", "timeout_s = 1");
    let all = place.run(&mut ()).unwrap();
    let slow: Vec<&Sample> = all.iter().filter(|it| it.arm == "ours").collect();
    assert!(slow.iter().all(|it| it.outcome == Outcome::Timeout && it.calls_ns().is_empty()));
}

#[test]
fn a_wrong_reference_leaves_nothing_to_time() {
    let mut place = Place::new(GOOD);
    place.text = place.text.replace("tolerance = 1e-6", "tolerance = 1e-6\nexpect = [0.7]");
    let all = place.run(&mut ()).unwrap();
    assert!(all.iter().all(|it| it.phase == Phase::Reference));
    assert!(all.iter().all(|it| it.outcome == Outcome::WrongValue));
}

#[test]
fn a_killed_run_goes_on_where_it_ended() {
    struct After(usize);
    impl Progress for After {
        fn step(&mut self, _: usize, _: usize, _: &str) -> ControlFlow<()> {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let whole = Place::new(GOOD).run(&mut ()).unwrap();
    let place = Place::new(GOOD);
    let key = |it: &Sample| (it.size, it.arm.clone(), it.phase, it.round_index, it.order_index);
    for steps in [2, 9, 14] {
        assert!(matches!(place.run(&mut After(steps)), Err(MeasureError::Stopped)));
    }
    let resumed = place.run(&mut ()).unwrap();
    let keys = |all: &[Sample]| all.iter().map(key).collect::<Vec<_>>();
    assert_eq!(keys(&resumed), keys(&whole));
}

#[test]
fn another_run_is_not_mixed_in() {
    let mut place = Place::new(GOOD);
    place.run(&mut ()).unwrap();
    place.text = place.text.replace("about = \"for tests\"", "about = \"other\"");
    let err = place.run(&mut ()).unwrap_err().to_string();
    assert!(err.contains("another run") && err.contains("suite_blake3"), "{err}");
}

#[test]
fn a_word_without_a_value_stops_before_anything_runs() {
    let mut place = Place::new(GOOD);
    place.text = place.text.replace("\"ours.sh\"", "\"{device}\"");
    let err = place.run(&mut ()).unwrap_err().to_string();
    assert!(err.contains("`ours`") && err.contains("{device}"), "{err}");
}
