//! The command with a language model: texts, prompts and conversations, from a dry run to an answer.

use serde_json::{Value, json};

use super::command::Workplace;
use super::model::fixture;

/// The fixture with a tokenizer and a template, and a file with all three kinds of examples.
fn workplace() -> Workplace {
    let place = Workplace::of_fixture("llama-text");
    let lines = [
        json!({"text": "the small garden was wonderful."}),
        json!({"prompt": "the river path", "completion": " looked fairly plain."}),
        json!({"messages": [
            {"role": "user", "content": "an old machine"},
            {"role": "assistant", "content": "it seemed dreadful."},
        ]}),
    ];
    place.write("train.jsonl", &lines.map(|line| format!("{line}\n")).concat());
    place.write(
        "run.toml",
        "model = \"model\"\noutput = \"run\"\ntask = \"causal-lm\"\ntargets = \"all-linear\"\n[method.lora]\nrank = 8\n[data]\n\
         train = \"train.jsonl\"\nvalid = \"train.jsonl\"\n\
         [optimizer]\nbatch_size = 3\nepochs = 120\nlearning_rate = 2e-2\n",
    );
    place
}

fn read(place: &Workplace, name: &str) -> String {
    std::fs::read_to_string(place.path(name)).unwrap()
}

/// What would be trained, token by token: begin and end of a text, a completion with its end, an assistant's turn.
#[test]
fn a_dry_run_shows_what_is_learned() {
    let place = workplace();
    let plan = place.json(&["train", "--config", "run.toml", "--dry-run"]);
    assert_eq!((&plan["examples"], &plan["truncated"], &plan["dropped"]), (&json!(3), &json!(0), &json!(0)));
    let texts: Value = serde_json::from_str(&read(&place, "model/texts.json")).unwrap();
    assert!(texts["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
    let tokenizer = sara_models::tokenizer::Tokenizer::load(&place.path("model")).unwrap();
    let sample = |at: usize| -> (Vec<u32>, Vec<bool>) {
        let sample = &plan["samples"][at];
        let parse = |key: &str| sample[key].clone();
        (serde_json::from_value(parse("tokens")).unwrap(), serde_json::from_value(parse("trained")).unwrap())
    };
    let learned = |at: usize| {
        let (tokens, trained) = sample(at);
        let learned: Vec<u32> =
            tokens.iter().zip(&trained).filter(|(_, trained)| **trained).map(|(token, _)| *token).collect();
        (tokens.len(), learned.len(), tokenizer.decode(&learned).unwrap(), learned.last().copied())
    };
    let eos = tokenizer.id(tokenizer.special("eos_token").unwrap());
    let (tokens, trained, text, last) = learned(0);
    assert_eq!((tokens - trained, text.as_str(), last), (1, "the small garden was wonderful.", eos));
    let (_, _, text, last) = learned(1);
    assert_eq!((text.as_str(), last), (" looked fairly plain.", eos));
    let (_, _, text, _) = learned(2);
    assert!(text.starts_with("it seemed dreadful."), "{text}");
    let sums =
        |key: &str, of: &dyn Fn(usize) -> usize| assert_eq!(plan[key], json!((0..3).map(of).sum::<usize>()));
    sums("tokens", &|at| sample(at).0.len());
    sums("trained_tokens", &|at| learned(at).1);
    assert!(plan["memory_bytes"].as_u64().unwrap() > 10_000 && plan["trainable"].as_u64().unwrap() > 100);
    assert!(!place.path("run").exists());

    let all = place.json(&["train", "--config", "run.toml", "--dry-run", "data.train_on=all"]);
    assert_eq!(all["trained_tokens"].as_u64().unwrap(), all["tokens"].as_u64().unwrap() - 3);
    let cut = place.json(&["train", "--config", "run.toml", "--dry-run", "data.max_tokens=8"]);
    assert_eq!((&cut["truncated"], &cut["dropped"], &cut["examples"]), (&json!(3), &json!(2), &json!(1)));
}

#[test]
fn a_model_learns_to_answer() {
    let place = workplace();
    let before = place.json(&["eval", "--model", "model", "--data", "train.jsonl", "--generate"]);
    assert_eq!(before["metrics"]["exact_match"], 0.0);
    let trained = place.json(&["train", "--config", "run.toml"]);
    assert_eq!(trained["last"]["token_accuracy"], 1.0, "{trained}");
    let with = |args: &[&str]| place.json(&[args, &["--model", "model", "--adapter", "run"]].concat());
    let after = with(&["eval", "--data", "train.jsonl", "--generate", "--max-new-tokens", "24"]);
    assert_eq!((&after["examples"], &after["metrics"]["exact_match"]), (&json!(3), &json!(1.0)), "{after}");
    let loss = after["metrics"]["loss"].as_f64().unwrap();
    assert!((after["metrics"]["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-6);

    place.sara_ok(&[
        "predict",
        "--model",
        "model",
        "--adapter",
        "run",
        "--data",
        "train.jsonl",
        "--out",
        "p.jsonl",
    ]);
    let scores: Vec<Value> =
        read(&place, "p.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sum = |key: &str| scores.iter().map(|score| score[key].as_f64().unwrap()).sum::<f64>();
    assert!((-sum("logprob") / sum("tokens") - loss).abs() < 1e-5, "{scores:?}, {loss}");

    let answer = with(&["generate", "--prompt", "the river path", "--max-new-tokens", "40"]);
    assert_eq!(
        (&answer["text"], &answer["stop"]),
        (&json!(" looked fairly plain."), &json!("eos")),
        "{answer}"
    );
    // The end of the text is scored and not written.
    let written = answer["tokens"].as_array().map(Vec::len).unwrap_or_default() as u64;
    assert_eq!(scores[1]["tokens"], json!(written + 1));
    place.write("chat.json", "[{\"role\": \"user\", \"content\": \"an old machine\"}]");
    let chat = with(&["generate", "--messages", "chat.json", "--max-new-tokens", "40"]);
    assert_eq!(chat["text"].as_str().map(str::trim), Some("it seemed dreadful."), "{chat}");
    let stopped =
        with(&["generate", "--prompt", "the river path", "--stop", "fair", "--max-new-tokens", "40"]);
    assert_eq!((&stopped["text"], &stopped["stop"]), (&json!(" looked "), &json!("text")), "{stopped}");
    let short = with(&["generate", "--prompt", "the river path", "--max-new-tokens", "2"]);
    assert_eq!((&short["stop"], short["tokens"].as_array().map(Vec::len)), (&json!("length"), Some(2)));
    let said = place.sara(&[
        "generate",
        "--model",
        "model",
        "--adapter",
        "run",
        "--prompt",
        "the river path",
        "--max-new-tokens",
        "40",
    ]);
    assert_eq!(said.stdout, " looked fairly plain.\n", "{said:?}");
    // Drawn at random, the same for the same seed.
    let drawn = |seed: &str| {
        let warm = ["--temperature", "2", "--top-k", "40", "--max-new-tokens", "12", "--seed", seed];
        with(&[&["generate", "--prompt", "the river path"], &warm[..]].concat())["tokens"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));

    // Merged, and through PEFT's files, it is the same model.
    let further = "additional_chat_templates/tool_use.jinja";
    std::fs::create_dir(place.path("model/additional_chat_templates")).unwrap();
    std::fs::write(place.path("model").join(further), "{{ messages[0]['content'] }}").unwrap();
    place.sara_ok(&["merge", "--model", "model", "--adapter", "run", "--out", "merged"]);
    for name in ["chat_template.jinja", "generation_config.json", "tokenizer_config.json"] {
        assert_eq!(
            place.path("merged").join(name).exists(),
            fixture("llama-text").join(name).exists(),
            "{name}"
        );
    }
    // A template in a folder hides the one in the tokenizer's file: it came along, and goes again.
    for dir in ["model", "merged"] {
        assert!(place.path(dir).join(further).is_file(), "{dir}");
        std::fs::remove_dir_all(place.path(dir).join("additional_chat_templates")).unwrap();
    }
    place.sara_ok(&["export", "--model", "model", "--adapter", "run", "--to", "peft", "--out", "peft"]);
    let config: Value = serde_json::from_str(&read(&place, "peft/adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "CAUSAL_LM");
    for args in [&["--model", "merged"][..], &["--model", "model", "--adapter", "peft"]] {
        let found = place.json(&[&["eval", "--data", "train.jsonl"], args].concat());
        assert!((found["metrics"]["loss"].as_f64().unwrap() - loss).abs() < 1e-4 * (1.0 + loss), "{found}");
    }
}

#[test]
fn what_cannot_be_learned_or_written_is_said() {
    let place = workplace();
    let refused = |args: &[&str], part: &str| {
        let done = place.sara(args);
        assert!(done.code == Some(1) && done.stderr.contains(part), "{args:?}: {done:?}");
        assert_eq!(done.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{done:?}");
    };
    let data = |line: &str, part: &str| {
        place.write("bad.jsonl", &format!("{{\"text\": \"the garden\"}}\n{line}\n"));
        refused(&["train", "--config", "run.toml", "data.train=bad.jsonl", "output=other"], part);
        assert!(!place.path("other").exists());
    };
    data("{\"prompt\": \"a\"}", "bad.jsonl, line 2: has a prompt and no completion");
    data("{\"prompt\": \"a\", \"completion\": \"\"}", "line 2: has an empty completion");
    data("{\"text\": \"a\", \"prompt\": \"b\", \"completion\": \"c\"}", "line 2: has more than one of");
    data("{\"text\": 3}", "line 2: `text` is 3; write it as a string");
    data(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
        "line 2: the conversation does not end with a turn",
    );
    data("{\"messages\": []}", "line 2: the conversation does not end");
    refused(
        &["train", "--config", "run.toml", "dtype=int4"],
        "down_proj, whose rows have 48 values: expected",
    );
    refused(
        &["generate", "--model", "model", "--prompt", "a", "--dtype", "int8"],
        "dtype = int8 for model.l",
    );
    refused(&["train", "--config", "run.toml", "task=classify"], "the model writes");
    refused(
        &["train", "--config", "run.toml", "data.max_tokens=1", "data.train_on=completion"],
        "none of its 3 examples has a token",
    );
    refused(&["train", "--config", "run.toml", "backbone_dropout=0.1"], "backbone_dropout = 0.1: expected 0");
    refused(
        &["train", "--config", "run.toml", "data.text=content"],
        "data.text = \"content\": expected nothing",
    );
    refused(
        &["eval", "--model", "model", "--data", "train.jsonl", "--label", "gold"],
        "leave the names of columns out",
    );
    refused(
        &["generate", "--model", "model", "--prompt", "a", "--max-new-tokens", "100000"],
        "more than the context of",
    );
    refused(&["generate", "--model", "model"], "say what is to go on");
    place.write("chat.json", "{\"turns\": []}");
    refused(&["generate", "--model", "model", "--messages", "chat.json"], "write a JSON array of turns");

    let encoder = Workplace::of_fixture("roberta-cls3");
    let done = encoder.sara(&["generate", "--model", "model", "--prompt", "a"]);
    assert!(done.code == Some(1) && done.stderr.contains("the model is an encoder"), "{done:?}");
    encoder.write(
        "run.toml",
        "model = \"model\"\noutput = \"run\"\ntask = \"causal-lm\"\n[method.lora]\n[data]\ntrain = \"train.jsonl\"\n",
    );
    let done = encoder.sara(&["train", "--config", "run.toml"]);
    assert!(done.code == Some(1) && done.stderr.contains("this one is an encoder"), "{done:?}");
}

#[test]
fn parameters_are_counted_and_ranks_told_for_a_decoder() {
    let place = workplace();
    let method = "{\"lora\":{\"rank\":4}}";
    let counted =
        place.json(&["params", "--model", "model", "--method", method, "--targets", "q_proj,v_proj"]);
    let config: Value = serde_json::from_str(&read(&place, "model/config.json")).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap();
    let (hidden, layers) = (size("hidden_size"), size("num_hidden_layers"));
    let key = hidden / size("num_attention_heads") * size("num_key_value_heads");
    assert_eq!(counted["trainable"], json!(layers * 4 * ((hidden + hidden) + (hidden + key))));
    assert_eq!(
        (&counted["head"], counted["sites"].as_array().unwrap().len() as u64),
        (&json!(0), 2 * layers)
    );
    let all = place.json(&["params", "--model", "model", "--method", method, "--targets", "all-linear"]);
    assert_eq!(all["sites"].as_array().unwrap().len() as u64, 7 * layers);
    let ranks = place.json(&["ranks", "--model", "model", "--share", "0.5"]);
    assert_eq!(ranks["sites"].as_array().unwrap().len() as u64, 7 * layers);
    let done = place.sara(&["params", "--model", "model", "--method", method, "--labels", "3"]);
    assert!(done.code == Some(1) && done.stderr.contains("--labels is for a head"), "{done:?}");
}

/// Line by line: each answer sees what was said before, and an empty line ends it.
#[test]
fn a_conversation_goes_on() {
    let place = workplace();
    place.sara_ok(&["train", "--config", "run.toml"]);
    let talk = |lines: &str| {
        let args = ["generate", "--model", "model", "--adapter", "run", "--talk", "--max-new-tokens", "20"];
        place.sara_given(&args, lines).stdout
    };
    assert_eq!(talk("an old machine\n\nnever read\n").trim(), "it seemed dreadful.");
    let twice = talk("an old machine\nan old machine\n");
    let answers: Vec<&str> = twice.trim_end().lines().collect();
    assert!(answers.len() >= 2 && answers[0].trim() == "it seemed dreadful.", "{twice}");
}

/// Beside weights in 8 and 4 bits an adapter learns almost as beside those in 16, and goes into the original afterwards.
#[test]
fn weights_of_few_bits_are_learned_beside() {
    let place = Workplace::of_writer(800, 200);
    place.write(
        "run.toml",
        "model = \"model\"\noutput = \"run\"\ntask = \"causal-lm\"\ndevice = \"cpu\"\n[data]\ntrain = \"train.jsonl\"\n\
         valid = \"valid.jsonl\"\n[method.lora]\n[optimizer]\nlearning_rate = 4e-3\nmax_steps = 50\n",
    );
    let loss = |dtype: &str| {
        let (dtype, output) = (format!("dtype={dtype}"), format!("output={dtype}"));
        let done = place.sara_ok(&["train", "--config", "run.toml", &dtype, &output, "--json"]);
        serde_json::from_str::<Value>(&done.stdout).unwrap()["last"]["loss"].as_f64().unwrap()
    };
    let [of_16, of_8, of_4] = ["bf16", "int8", "int4"].map(loss);
    assert!(
        of_16 < 0.5 && (of_8 / of_16 - 1.0).abs() < 0.005 && (of_4 / of_16 - 1.0).abs() < 0.04,
        "{of_16} {of_8} {of_4}"
    );
    let differ = |a: f64, b: f64| (a - b).abs() > 1e-5;
    assert!(differ(of_8, of_16) && differ(of_4, of_8));
    let measured = |args: &[&str]| {
        let done = place.sara_ok(&[&["eval", "--data", "valid.jsonl", "--json"], args].concat());
        serde_json::from_str::<Value>(&done.stdout).unwrap()["metrics"]["loss"].as_f64().unwrap()
    };
    let beside = measured(&["--model", "model", "--adapter", "int4", "--dtype", "int4"]);
    assert!((beside - of_4).abs() < 1e-9, "{beside}, {of_4}");
    place.sara_ok(&["merge", "--model", "model", "--adapter", "int4", "--out", "merged"]);
    let (merged, original) =
        (measured(&["--model", "merged"]), measured(&["--model", "model", "--adapter", "int4"]));
    assert!((merged - original).abs() < 2e-3 && differ(original, beside), "{merged}, {original}, {beside}");
}
