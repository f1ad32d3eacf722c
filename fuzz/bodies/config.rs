//! config.json: any text gives a configuration within its limits, or a typed error.

/// Runs one input; panics when a promise is broken.
pub(crate) fn replay(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = std::path::Path::new("config.json");
    match calor_weights::ModelConfig::from_json(path, text) {
        Ok(config) => {
            for (_, tower) in config.towers() {
                assert!(tower.head_count > 0 && tower.layer_count > 0);
                assert_eq!(tower.windows.len(), tower.layer_count);
                assert_eq!(tower.head_count % tower.kv_head_count, 0);
            }
        }
        Err(err) => assert!(!err.to_string().is_empty()),
    }
}
