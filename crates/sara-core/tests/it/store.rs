//! Files that appear whole or not at all, and what they hold.

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use half::{bf16, f16};
use sara_core::parameters::Tensors;
use sara_core::store::{FORMAT, read_safetensors, replace_dir, write_file, write_safetensors};
use sara_core::{Error, Manifest, NoWeights, StoredAdapter};

use crate::tiny::{SHAPE, cases, data};

fn every_type() -> Tensors {
    let shape = [2, 2];
    [
        ("f64", TensorData::new(vec![1.0f64, -2.5, f64::MIN_POSITIVE, 1e300], shape)),
        ("f32", TensorData::new(vec![1.0f32, -0.0, f32::MAX, 1e-40], shape)),
        ("f16", TensorData::new([1.0, -2.5, 6e-8, 65504.0].map(f16::from_f32).to_vec(), shape)),
        ("bf16", TensorData::new([1.0, -2.5, 1e-38, 3e38].map(bf16::from_f32).to_vec(), shape)),
        ("i64", TensorData::new(vec![i64::MIN, -1, 0, i64::MAX], shape)),
        ("i32", TensorData::new(vec![i32::MIN, -1, 0, i32::MAX], shape)),
        ("u8", TensorData::new(vec![0u8, 1, 127, 255], shape)),
        ("bool", TensorData::new(vec![true, false, false, true], shape)),
        ("scalar", TensorData::new(vec![7.0f32], Vec::<usize>::new())),
        ("nothing", TensorData::new(Vec::<f32>::new(), [0, 32])),
        ("nothing wide", TensorData::new(Vec::<f32>::new(), [32, 0])),
    ]
    .map(|(name, data)| (name.to_owned(), data))
    .into()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_type_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    write_safetensors(&path, &every_type(), &[("format", "pt"), ("a", "b")]).unwrap();
    assert_eq!(read_safetensors(&path).unwrap(), every_type());
    assert_eq!(names(folder.path()), ["all.safetensors"]);

    // The format's own reader sees the same, metadata included.
    let bytes = fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["a"], "b");
    assert_eq!(bytes.len() % 2, 0);
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header % 8, 0, "values are not aligned");

    write_safetensors(&path, &every_type(), &[("format", "pt"), ("a", "b")]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn damage_is_one_line_with_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.safetensors");
    write_safetensors(&path, &every_type(), &[]).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut long_header = whole.clone();
    long_header[..8].copy_from_slice(&(whole.len() as u64).to_le_bytes());
    let mut huge_header = whole.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut extra = whole.clone();
    extra.push(0);
    let cut = |length: usize| whole[..length].to_vec();
    for bytes in [cut(0), cut(5), cut(8), cut(20), cut(whole.len() - 1), long_header, huge_header, extra] {
        fs::write(&path, bytes).unwrap();
        let error = read_safetensors(&path).unwrap_err();
        assert!(matches!(error, Error::Format { .. }));
        let text = error.to_string();
        assert!(text.contains("damaged.safetensors") && !text.contains('\n'), "{text}");
    }
    let missing = read_safetensors(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().contains("missing"));
}

#[test]
fn a_directory_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("new/deep/adapter");
    let write = |name: &'static str| move |dir: &Path| write_file(&dir.join(name), name.as_bytes());
    replace_dir(&dest, write("first")).unwrap();
    replace_dir(&dest, write("second")).unwrap();
    assert_eq!(names(&dest), ["second"]);

    let failed = replace_dir(&dest, |dir| {
        write("third")(dir)?;
        fs::create_dir(dir.join("below")).unwrap();
        Err(Error::NothingToMerge)
    });
    assert!(matches!(failed, Err(Error::NothingToMerge)));
    assert_eq!(names(&dest), ["second"]);
    assert_eq!(names(dest.parent().unwrap()), ["adapter"]);

    let file = folder.path().join("file");
    write_file(&file, b"kept").unwrap();
    let error = replace_dir(&file, write("first")).unwrap_err();
    assert!(error.to_string().contains("in the way"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    assert_eq!(names(folder.path()), ["file", "new"]);
}

#[test]
fn a_file_is_replaced_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    write_file(&path, b"first, longer").unwrap();
    write_file(&path, b"second").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(names(folder.path()), ["file"]);
    assert!(matches!(write_file(&folder.path().join("no/file"), b""), Err(Error::Io { .. })));
}

#[cfg(unix)]
#[test]
fn others_may_read_what_the_process_lets_them() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (plain, ours) = (folder.path().join("plain"), folder.path().join("ours"));
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("file"), b"").unwrap();
    replace_dir(&ours, |dir| write_file(&dir.join("file"), b"")).unwrap();
    assert_eq!(mode(&ours), mode(&plain));
    assert_eq!(mode(&ours.join("file")), mode(&plain.join("file")));
}

fn stored() -> StoredAdapter {
    let case = cases().remove(0);
    let adapter = case.init::<burn_flex::Flex>(1, &burn_flex::FlexDevice);
    let manifest = Manifest {
        format: FORMAT,
        base: "tiny".into(),
        task: serde_json::Value::Null,
        head: Vec::new(),
        shape: SHAPE,
        method: case.method,
        plan: case.plan,
        base_fingerprint: None,
        frozen: None,
    };
    StoredAdapter::new(manifest, &adapter, [("weight".to_owned(), data("head", [2, 3]))].into())
}

#[test]
fn the_same_adapter_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    stored().write(&first).unwrap();
    stored().write(&second).unwrap();
    assert_eq!(names(&first), ["adapter.json", "adapter.safetensors"]);
    for name in names(&first) {
        assert_eq!(fs::read(first.join(&name)).unwrap(), fs::read(second.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn an_edited_description_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapter");
    stored().write(&dir).unwrap();
    let path = dir.join("adapter.json");
    let text = fs::read_to_string(&path).unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = StoredAdapter::read(&dir)
            .and_then(|stored| {
                stored.build::<burn_flex::Flex>(&mut NoWeights, &burn_flex::FlexDevice).map(drop)
            })
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(error("\"format\": 1", "\"format\": 2").contains("format 2 is not 1"));
    assert!(error("\"format\": 1,", "").contains("not the description of an adapter"));
    assert!(error("\"base\"", "\"bass\"").contains("bass"));
    let plan = text.rfind("\"rank\": 3").unwrap();
    for (rank, expected) in [("0", "rank 0"), ("99", "rank 99"), ("2", "expected [8, 2]")] {
        fs::write(&path, format!("{}\"rank\": {rank}{}", &text[..plan], &text[plan + 9..])).unwrap();
        let error = StoredAdapter::read(&dir)
            .unwrap()
            .build::<burn_flex::Flex>(&mut NoWeights, &burn_flex::FlexDevice);
        let error = error.map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let cut = StoredAdapter::read(&dir).unwrap_err().to_string();
    assert!(cut.contains("adapter.json") && !cut.contains('\n'), "{cut}");

    let mut foreign = stored();
    foreign.adapter.insert("Lora.layers.9-key.up".to_owned(), data("up", [2, 2]));
    let error = foreign
        .build::<burn_flex::Flex>(&mut NoWeights, &burn_flex::FlexDevice)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("Lora.layers.9-key.up: unknown"), "{error}");
}

/// On a device that does not compute bit for bit, a resumed run has vectors of its own beside those that it wrote before.
#[test]
fn what_is_frozen_is_linked_only_where_it_is_the_same() {
    let case = cases().into_iter().find(|case| case.name == "mo_sara").unwrap();
    let adapter = case.init::<burn_flex::Flex>(1, &burn_flex::FlexDevice);
    let manifest = Manifest { method: case.method, plan: case.plan, ..stored().manifest };
    let first = StoredAdapter::new(manifest.clone(), &adapter, Tensors::new());
    let mut state = sara_core::parameters::collect(&adapter);
    let (_, vectors) = state.iter_mut().find(|(path, _)| path.ends_with("right")).unwrap();
    let shape = vectors.shape.clone();
    *vectors = TensorData::new(vec![0.5f32; shape.num_elements()], shape);
    let other = sara_core::parameters::restore(adapter, &state, "other").unwrap();
    let second = StoredAdapter::new(manifest, &other, Tensors::new());
    assert_ne!(first.manifest.frozen, second.manifest.frozen);

    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
    first.write(&a).unwrap();
    first.write_beside(&b, Some(&a)).unwrap();
    second.write_beside(&c, Some(&a)).unwrap();
    assert_eq!(StoredAdapter::read(&b).unwrap(), first);
    assert_eq!(StoredAdapter::read(&c).unwrap(), second);
}
