//! Graphs as text: whatever parses prints, and parses again to the same text; and whatever is a
//! graph can be rewritten.

/// Runs one input; panics when a promise is broken.
pub(crate) fn replay(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(graph) = calor_ir::text::parse(text) else { return };
    let printed = calor_ir::text::print(&graph);
    let again = calor_ir::text::parse(&printed).expect("what was printed parses");
    assert_eq!(calor_ir::text::print(&again), printed);
    if calor_ir::expand_all(&graph, &mut |_, _| false).is_ok() {
        let merged = calor_ir::dedupe(&graph);
        assert!(merged.graph.nodes().len() <= graph.nodes().len());
    }
}
