//! Every op case on the processor, and the contract of its memory and queue.

use calor_device_cpu::CpuDriver;
use calor_testkit::Known;

const DRIVER: CpuDriver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };

const KNOWN: &[Known] = &[Known { op: "sort", case: None, why: "nothing here sorts" }];

calor_testkit::conformance!(DRIVER, KNOWN);
