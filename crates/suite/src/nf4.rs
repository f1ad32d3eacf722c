//! Products with weights of four bits of sizes at which a device takes its fast paths, against the
//! oracle.

use calor_device::Driver;
use calor_ir::case::CaseBuilder;
use calor_ir::{DType, OpCase, nn};
use calor_testkit::check_case;

/// Rows, and the extents of the weight: few rows, tiles that are full and ones that are not, rows
/// of whole blocks, blocks and bytes across rows.
const PRODUCTS: [[usize; 3]; 16] = [
    [1, 64, 64],
    [1, 264, 1088],
    [7, 256, 128],
    [16, 1024, 192],
    [17, 136, 320],
    [33, 96, 1536],
    [64, 128, 448],
    [65, 72, 64],
    [100, 136, 192],
    [200, 384, 256],
    [300, 136, 128],
    [400, 1024, 64],
    [129, 200, 576],
    [3, 77, 40],
    [90, 77, 35],
    [257, 64, 100],
];

/// The forms of a product.
const FORMS: [&str; 4] = ["linear", "transposed", "swiglu", "pair"];

/// Enough tiles for the largest ones.
const LARGE: [(&str, DType, [usize; 3]); 3] = [
    ("linear", DType::BF16, [1030, 4224, 64]),
    ("transposed", DType::F16, [1030, 64, 4224]),
    ("swiglu", DType::BF16, [520, 2880, 64]),
];

/// Every form of a product on few and many rows; each shape sees each form, with types in turn.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_nf4(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    let mut check = |form: &str, dtype, extents| {
        let case = case(form, dtype, extents);
        if let Err(failure) = check_case(driver, form, &case) {
            wrong.push(format!("{}: {failure}", case.name));
        }
    };
    for (at, extents) in PRODUCTS.into_iter().enumerate() {
        for (turn, form) in FORMS.into_iter().enumerate() {
            let dtype = [DType::BF16, DType::F16, DType::F32][(at + turn) % 3];
            check(form, dtype, extents);
        }
    }
    for (form, dtype, extents) in LARGE {
        check(form, dtype, extents);
    }
    assert!(wrong.is_empty(), "{} products:\n{}", wrong.len(), wrong.join("\n"));
}

fn case(form: &str, dtype: DType, [rows, n, k]: [usize; 3]) -> OpCase {
    // The sums are alike in all types; what is left is the rounding of the result.
    let tolerance = match dtype {
        DType::F32 => 1e-4,
        DType::F16 => 2e-3,
        _ => 1e-2,
    };
    let name = format!("{form} {rows}x{n}x{k} {dtype}");
    let mut case = CaseBuilder::new(&name).tolerance(tolerance);
    let from = if form == "transposed" { n } else { k };
    let x = case.random("x", dtype, &[rows, from]);
    let count = n * k;
    let mut weight = |name: &str| nn::Nf4Weight {
        codes: case.random_in(
            &format!("{name}.codes"),
            DType::U8,
            &[count.div_ceil(2)],
            0.0,
            255.0,
        ),
        scales: case.random_in(
            &format!("{name}.scales"),
            DType::F32,
            &[count.div_ceil(64)],
            0.02,
            0.1,
        ),
    };
    let a = weight("a");
    let b = (form == "swiglu" || form == "pair").then(|| weight("b"));
    let g = &mut case.graph;
    let results = match (form, b) {
        ("swiglu", Some(b)) => nn::nf4_swiglu(g, x, a, b, n).map(|it| vec![it]),
        ("pair", Some(b)) => nn::nf4_pair(g, x, a, b, n).map(Vec::from),
        ("transposed", _) => nn::nf4_linear_transposed(g, x, a, k).map(|it| vec![it]),
        _ => nn::nf4_linear(g, x, a, n).map(|it| vec![it]),
    };
    case.finish(results)
}
