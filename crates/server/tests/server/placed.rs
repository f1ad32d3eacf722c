//! One pipeline on two devices behind the server: a device that is lost takes its models along
//! until all are opened anew.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calor_device::{Device, DeviceError, Driver, PreparedId, Queue, Span, Step, Ticket};
use calor_device_cpu::CpuDriver;
use calor_embed::pipeline::{PlacedReady, PrecisionRule};
use calor_embed::placement::DeviceRoom;
use calor_embed::warmup::ReadyPolicy;
use calor_embed::{Layout, PipelineCore, PlacedPipeline};
use calor_runtime::Build;
use calor_server::{Opened, Opener, Phase};
use calor_telemetry::{Counters, Null};

use crate::double::Knobs;
use crate::fixture::{Running, close, numbers};
use crate::pipeline::{build, checkpoints, options};

/// A queue of a device that can be lost.
struct Losable {
    queue: Box<dyn Queue>,
    is_lost: Arc<AtomicBool>,
}

impl Queue for Losable {
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError> {
        self.queue.prepare(steps, edges, live)
    }

    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError> {
        match self.is_lost.load(Ordering::Relaxed) {
            true => Err(DeviceError::Absent { kind: "cpu", why: "it fell off the bus".into() }),
            false => self.queue.run(prepared),
        }
    }

    fn wait(&mut self, ticket: Ticket, deadline: Duration) -> Result<(), DeviceError> {
        self.queue.wait(ticket, deadline)
    }
}

fn losable(is_lost: &Arc<AtomicBool>) -> Build {
    let driver = CpuDriver { threads: 1, level: None, memory_bytes: None, profile: None };
    let device = driver.open(0).unwrap();
    let queue = Box::new(Losable { queue: device.queue, is_lost: is_lost.clone() });
    let device = Device { queue, ..device };
    Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
}

/// Opens all models on two devices, of which the second can be lost.
fn opener(dir: PathBuf, is_lost: Arc<AtomicBool>) -> Opener {
    let core = PipelineCore::open(build(), options(&dir)).unwrap();
    let need = core.need().unwrap();
    let room = |name: &str| DeviceRoom {
        name: name.into(),
        free_bytes: need.whole_bytes - 1,
        need: need.clone(),
    };
    let layout = Layout::plan(&[room("0:cpu"), room("1:cpu")]).unwrap();
    let own = layout.clone();
    let opener = Opener::single("0:cpu+1:cpu", move |_| {
        let devices = vec![(build(), options(&dir)), (losable(&is_lost), options(&dir))];
        let (policy, rule) = (ReadyPolicy::All, PrecisionRule::Unchecked);
        let PlacedReady { placed, report, lost } =
            PlacedPipeline::ready(devices, &own, &policy, rule, &mut |_| ())?;
        Ok(Opened { engine: Box::new(placed), report, lost })
    });
    Opener { layout: Some(layout), ..opener }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_makes_the_whole_unready_until_it_is_opened_anew() {
    let dir = checkpoints();
    let is_lost = Arc::new(AtomicBool::new(false));
    let open = opener(dir.path().to_owned(), is_lost.clone());
    let server = Running::with(Arc::new(Knobs::default()), open, |_| {}).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    let info = server.get("/info").await.good();
    assert_eq!(info["placement"]["kind"], "parts");
    assert_eq!(info["models"].as_array().unwrap().len(), 12);
    let ask = r#"{"inputs": "heat is energy in transit"}"#;
    let want = numbers(&server.post("/embed", ask).await.good()[0]);
    is_lost.store(true, Ordering::Relaxed);
    let failed = server.post("/embed", ask).await;
    assert_eq!(failed.status, 424, "{:?}", failed.body);
    assert!(server.handle.wait_for(Phase::Recovering).await);
    // The first device still works, and answers nothing by itself.
    for body in
        [ask, r#"{"inputs": "heat", "model": "e1"}"#, r#"{"inputs": "heat", "model": "e2"}"#]
    {
        assert_eq!(server.post("/embed", body).await.status, 503, "{body}");
    }
    assert_eq!(server.get("/readyz").await.status, 503);
    is_lost.store(false, Ordering::Relaxed);
    assert!(server.handle.wait_for(Phase::Ready).await);
    close(&numbers(&server.post("/embed", ask).await.good()[0]), &want);
}
