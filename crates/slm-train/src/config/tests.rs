use super::*;
use slm_quant_core::{Bits, Granularity, ObserverKind, QuantizationType};

const SMALL: &str = r#"
[model]
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_layers = 2
num_heads = 2
max_position_embeddings = 128

[training]
steps = 10
"#;

fn parse(text: &str) -> Result<TrainingConfig> {
    let config: TrainingConfig = parse_toml(text, "run.toml", &[])?;
    config.validate("run.toml")?;
    Ok(config)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn with(line: &str) -> String {
    format!("{SMALL}{line}\n")
}

#[test]
fn defaults_fill_what_is_not_said() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.training, TrainingOptions { steps: 10, ..TrainingOptions::default() });
    assert_eq!(config.quantization, QuantizationConfig::default());
    assert_eq!(config.quantization.quantization_mode, QuantizationMode::None);
    assert_eq!(config.quantization.quantization_bits, Bits::Int8);
    assert_eq!(config.quantization.quantization_type, QuantizationType::Static);
    assert!(!config.quantization.enable_quantized_finetuning);
    assert_eq!(config.quantization.granularity, Granularity::PerTensor);
}

#[test]
fn everything_can_be_said() {
    let config = parse(&with(
        r#"
        batch_size = 2
        learning_rate = 1
        [tokenizer]
        file = "t.json"
        [quantization]
        quantization_mode = "ptq"
        quantization_bits = 4
        quantization_type = "weight-only"
        granularity = "group:32"
        observer = "percentile:99.9"
        skip = ["lm_head", "layers.0.*"]
        [model.position.rotary]
        theta = 500
        "#,
    ))
    .unwrap();
    assert_eq!(config.training.learning_rate, 1.0);
    assert_eq!(config.quantization.scheme().to_string(), "int4 group:32 symmetric");
    assert_eq!(config.quantization.quantization_type, QuantizationType::WeightOnly);
    assert_eq!(config.quantization.observer, Some(ObserverKind::Percentile { percentile: 99.9 }));
    assert_eq!(config.model.position, slm_model::Position::Rotary(slm_model::RotaryConfig::new(500.0)));
}

#[test]
fn a_config_written_out_reads_back_the_same() {
    let mut config = parse(SMALL).unwrap();
    config.quantization.granularity = Granularity::PerGroup { group_size: 7 };
    config.training.seed = 5;
    assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn unknown_keys_get_the_nearest_known_one() {
    assert_eq!(
        message(&with("learing_rate = 0.1")),
        "unknown key `learing_rate` in [training] of run.toml: did you mean `learning_rate`?"
    );
    assert_eq!(
        message(&with("[modle]\nx = 1")),
        "unknown key `modle` in the top level of run.toml: did you mean `model`?"
    );
    assert!(message(&with("[quantization]\nquantisation_bits = 4")).contains("`quantization_bits`?"));
    assert!(message(&with("zzz = 4")).contains(": known are steps, batch_size"));
    let nested = message(&with("[model.position.rotary]\ntheta = 1.0\nscalling = 2"));
    assert_eq!(
        nested,
        "unknown key `scalling` in [model.position.rotary] of run.toml: did you mean `scaling`?"
    );
}

#[test]
fn wrong_types_name_key_and_expectation() {
    assert_eq!(
        message(&with("batch_size = \"many\"")),
        "`training.batch_size` in run.toml: found string \"many\", expected a whole number, 0 or more"
    );
    assert_eq!(
        message(&with("batch_size = -1")),
        "`training.batch_size` in run.toml: found integer `-1`, expected a whole number, 0 or more"
    );
    assert!(message(&with("beta1 = true")).contains("found boolean `true`, expected a number"));
    assert!(message(&with("[quantization]\nskip = \"x\"")).contains("`quantization.skip`"));
    assert!(message(&with("[quantization]\nskip = [\"x\", 3]")).contains("`quantization.skip.1`"));
    assert!(message("model = 3\n[training]\nsteps = 1").contains("`model`"));
}

#[test]
fn wrong_names_get_the_nearest_known_one() {
    let mode = message(&with("[quantization]\nquantization_mode = \"qatt\""));
    assert_eq!(
        mode,
        "`quantization.quantization_mode` in run.toml: found \"qatt\", expected one of none, ptq, qat: did you \
         mean \"qat\"?"
    );
    let granularity = message(&with("[quantization]\ngranularity = \"group:0\""));
    assert!(
        granularity.contains("`quantization.granularity`") && granularity.contains("group:N"),
        "{granularity}"
    );
    let bits = message(&with("[quantization]\nquantization_bits = 5"));
    assert!(bits.contains("`quantization.quantization_bits`") && bits.contains("8, 4"), "{bits}");
}

#[test]
fn missing_parts_are_named() {
    assert!(message("[training]\nsteps = 1").contains("run.toml has no section [model]"));
    let no_width = SMALL.replace("hidden_size = 32\n", "");
    assert!(
        message(&no_width).contains("[model] of run.toml has no `hidden_size`"),
        "{}",
        message(&no_width)
    );
    assert!(message(&SMALL.replace("steps = 10", "")).contains("`training.steps`"));
    let broken = message("[model\n");
    assert!(broken.contains("run.toml is not valid TOML") && broken.contains("line 1"), "{broken}");
}

#[test]
fn impossible_values_come_with_a_remedy() {
    for (line, key, remedy) in [
        ("batch_size = 0", "`training.batch_size`", "use 1 to 65536"),
        ("batch_size = 9223372036854775807", "`training.batch_size`", "use 1 to 65536"),
        ("accumulation_steps = 1000000000", "`training.accumulation_steps`", "use 1 to 65536"),
        ("learning_rate = 0.0", "`training.learning_rate`", "above 0 and at most 1"),
        ("learning_rate = nan", "`training.learning_rate`", "is NaN"),
        ("min_learning_rate = 0.1", "`training.min_learning_rate`", "from 0 to the learning_rate, 0.001"),
        ("warmup_steps = 10", "`training.warmup_steps`", "fewer than `steps`"),
        ("sequence_length = 129", "`training.sequence_length`", "max_position_embeddings of 128"),
        ("validation_fraction = 1.0", "`training.validation_fraction`", "at most 0.9"),
        ("[tokenizer]\ntrain_bytes = 0", "`tokenizer.train_bytes`", "is 0"),
        ("[quantization]\nskip = [\"\"]", "`quantization.skip`", "empty pattern"),
    ] {
        let message = message(&with(line));
        assert!(message.contains(key) && message.contains(remedy), "{line}: {message}");
    }
}

#[test]
fn what_cannot_be_trained_so_is_said_and_not_ignored() {
    let both = "[quantization]\nquantization_mode = \"qat\"\nenable_quantized_finetuning = true";
    assert!(message(&with(both)).contains("next to quantization_mode = \"qat\""), "{}", message(&with(both)));
    let decays = message(&with("[quantization]\nenable_quantized_finetuning = true"));
    assert!(decays.contains("training.weight_decay") && decays.contains("set it to 0"), "{decays}");
    let late = "[quantization]\nquantization_mode = \"qat\"\n[qat]\nobserve_steps = 10";
    assert!(message(&with(late)).contains("`qat.observe_steps`"), "{}", message(&with(late)));
    let unknown = message(&with("[qat]\nscales = \"learned\""));
    assert!(unknown.contains("did you mean `scale`?"), "{unknown}");
}

#[test]
fn a_config_for_a_model_that_exists_needs_no_model() {
    let model = slm_model::ModelConfig::new(320, 24, 52, 2, 2, 64);
    let parse = |text: &str| TrainingConfig::parse_for(text, "run.toml", &model, false, &[]);
    let config = parse("[training]\nsteps = 3\n[qat]\nscale = \"learned\"").unwrap();
    assert_eq!((&config.model, config.training.steps), (&model, 3));
    assert_eq!(config.qat.options.scale, slm_qat::ScaleMode::Learned);
    let other = parse(SMALL).unwrap_err().to_string();
    let differs = "`model` in run.toml: differs from the checkpoint in hidden_size (24 there, 32 here)";
    assert!(other.contains(differs) && other.contains("remove [model]"), "{other}");
    let tokenizer = parse("[training]\nsteps = 3\n[tokenizer]\nfile = \"t.json\"").unwrap_err().to_string();
    assert!(tokenizer.contains("leave [tokenizer] out"), "{tokenizer}");
}

#[test]
fn a_tokenizer_is_found_beside_its_config() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, with("[tokenizer]\nfile = \"t.json\"")).unwrap();
    let config = TrainingConfig::from_file(&path).unwrap();
    assert_eq!(config.tokenizer.file, Some(dir.path().join("t.json")));
    let missing = TrainingConfig::from_file(dir.path().join("no.toml")).unwrap_err();
    assert!(missing.to_string().contains("no.toml"));
}

#[test]
fn the_configs_that_ship_are_valid() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs"));
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            if std::fs::read_to_string(&path).unwrap().contains("[model]") {
                TrainingConfig::from_file(&path).unwrap();
            } else {
                let stories260k = slm_model::ModelConfig::new(512, 64, 172, 5, 8, 512);
                let text = std::fs::read_to_string(&path).unwrap();
                let config = TrainingConfig::parse_for(&text, "config", &stories260k, false, &[]).unwrap();
                config.validate(&path.display().to_string()).unwrap();
            }
            found += 1;
        }
    }
    assert!(found >= 3, "{found} configs");
}

#[test]
fn settings_take_the_place_of_what_the_file_says() {
    let with = |settings: &[&str]| {
        let settings: Vec<Setting> = settings.iter().map(|text| text.parse().unwrap()).collect();
        parse_toml::<TrainingConfig>(SMALL, "run.toml", &settings)
    };
    let config =
        with(&["training.steps=400", "training.learning_rate = 2e-4", "quantization.granularity=group:32"]);
    let config = config.unwrap();
    assert_eq!((config.training.steps, config.training.learning_rate), (400, 2e-4));
    assert_eq!(config.quantization.granularity, Granularity::PerGroup { group_size: 32 });
    let skip = with(&["quantization.skip=[\"lm_head\"]"]).unwrap().quantization.skip;
    assert_eq!(skip, ["lm_head"]);
    assert!(with(&["training.step=4"]).unwrap_err().to_string().contains("did you mean `steps`?"));
    assert!(with(&["training.steps=many"]).unwrap_err().to_string().contains("`training.steps`"));
    assert!(with(&["training.steps.x=1"]).unwrap_err().to_string().contains("not a section"));
    for bad in ["steps", "=3", "training.=3"] {
        assert!(bad.parse::<Setting>().is_err(), "{bad}");
    }
}

#[test]
fn a_quantization_section_alone_is_a_quantization_config() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        TrainingConfig::quantization_of_file(&path)
    };
    let section = "[quantization]\nquantization_bits = 4\ngranularity = \"group:16\"\n";
    assert_eq!(read(section).unwrap().scheme().to_string(), "int4 group:16 symmetric");
    assert_eq!(read(&format!("\u{feff}{section}")).unwrap(), read(&format!("{SMALL}{section}")).unwrap());
    assert!(read(&section.replace("bits", "bitz")).unwrap_err().to_string().contains("did you mean"));
    assert!(read("[training]\nsteps = 3").unwrap_err().to_string().contains("has no section [quantization]"));
    assert!(read("[quantization]\nskip = [\"\"]").unwrap_err().to_string().contains("empty pattern"));
    std::fs::write(&path, b"\xff\xfe[\0").unwrap();
    assert!(TrainingConfig::quantization_of_file(&path).unwrap_err().to_string().contains("UTF-16"));
}

#[test]
fn the_config_of_the_float_model_fits_what_was_quantized_from_it() {
    let tied = SMALL.replace("num_heads = 2", "num_heads = 2\ntie_word_embeddings = true");
    let mut model = parse(&tied).unwrap().model;
    assert!(model.tie_word_embeddings);
    model.tie_word_embeddings = false;
    let of = |quantized| TrainingConfig::parse_for(&tied, "run.toml", &model, quantized, &[]);
    assert_eq!(of(true).unwrap().model, model);
    let message = of(false).unwrap_err().to_string();
    assert!(message.contains("tie_word_embeddings (false there, true here)"), "{message}");
}

#[test]
fn a_setting_knows_what_it_sets() {
    let sets = |setting: &str, key| setting.parse::<Setting>().unwrap().sets(key);
    assert!(sets("training.warmup_steps=3", "training.warmup_steps"));
    assert!(sets("training={ steps = 3 }", "training.warmup_steps"));
    assert!(!sets("training.steps=3", "training.warmup_steps"));
    assert!(!sets("warmup_steps=3", "training.warmup_steps"));
    assert!(!sets("training.warmup_steps.x=3", "training.warmup_steps"));
}
