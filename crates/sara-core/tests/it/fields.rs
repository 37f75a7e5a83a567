//! A method's configuration as files have it.

use sara_core::MethodConfig;
use sara_core::low_rank::{BranchConfig, Scaling};
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::methods::lora::LoraConfig;

fn read(text: &str) -> Result<MethodConfig, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn what_is_not_given_is_the_default() {
    for config in MethodConfig::all() {
        let name = config.name();
        assert_eq!(read(&format!("{{\"{name}\": {{}}}}")).unwrap(), config);
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
    let branch = BranchConfig { alpha: 2.0, scaling: Scaling::RootRank, ..BranchConfig::default() };
    let lora = LoraConfig { rank: 3, branch: branch.clone() };
    let read_lora = read(r#"{"lora": {"scaling": "root_rank", "alpha": 2, "rank": 3}}"#).unwrap();
    assert_eq!(read_lora, MethodConfig::Lora(lora));
    let adalora = AdaloraConfig { interval: Some(7), branch, ..AdaloraConfig::default() };
    let read_adalora = read(r#"{"adalora": {"interval": 7, "scaling": "root_rank", "alpha": 2}}"#).unwrap();
    assert_eq!(read_adalora, MethodConfig::Adalora(adalora));
}

#[test]
fn an_error_names_the_field() {
    for (text, expected) in [
        (r#"{"lora": {"rank": -1}}"#, "lora.rank: invalid value: integer `-1`, expected usize"),
        (r#"{"sara": {"alpha": "much"}}"#, "sara.alpha: invalid type: string \"much\", expected f64"),
        (r#"{"lora": {"scaling": "ranks"}}"#, "lora.scaling: unknown variant `ranks`"),
        (
            r#"{"lora": {"rang": 1}}"#,
            "unknown field `rang`, expected one of `rank`, `alpha`, `dropout`, `scaling`",
        ),
        (r#"{"lora": 3}"#, "lora: expected its fields, found 3"),
        (r#"{"lira": {}}"#, "unknown variant `lira`, expected one of `lora`, `sara`, `"),
        (r#"{"lora": {}, "sara": {}}"#, "expected one method"),
        ("{}", "expected one method"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}
