//! Rotary embedding: the angle by which each token turns each pair of features, with every scaling of the families.

use std::f32::consts::PI;

use serde_json::{Map, Value};

/// Rotary embedding as `config.json` describes it.
///
/// # Source
/// Su et al., arXiv 2104.09864; the scalings as transformers computes them, in single precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How texts longer than those of the pretraining are read.
    pub scaling: Scaling,
}

/// How frequencies are changed for long texts.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A larger base for a text that is longer than `original`, by its own length (NTK).
    Dynamic {
        /// The factor.
        factor: f64,
        /// The length up to which nothing changes.
        original: usize,
    },
    /// Low frequencies divided by a factor, high ones kept, those between interpolated.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Below `original` divided by it are low wavelengths' ends.
        low: f64,
        /// The same for high frequencies.
        high: f64,
        /// The length of the pretraining.
        original: usize,
    },
    /// Frequencies divided by a factor along a ramp, and scores scaled (arXiv 2309.00071).
    Yarn {
        /// The factor.
        factor: f64,
        /// The length of the pretraining.
        original: usize,
        /// Rotations over `original` from which on a frequency is kept.
        fast: f64,
        /// Rotations up to which it is divided.
        slow: f64,
        /// By which cosines and sines are multiplied.
        attention: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
}

impl Rope {
    /// The description in a configuration, whose longest text has `max_positions` tokens.
    ///
    /// # Errors
    /// What is missing, of another kind, or not supported.
    pub(super) fn parse(config: &Map<String, Value>, max_positions: usize) -> Result<Self, String> {
        let empty = Map::new();
        let is_said =
            |value: &&Value| !value.is_null() && value.as_object().is_none_or(|table| !table.is_empty());
        let given = |key: &'static str| Some((key, config.get(key).filter(is_said)?));
        let (key, table) = match given("rope_scaling").or_else(|| given("rope_parameters")) {
            None => ("rope_parameters", &empty),
            Some((key, Value::Object(table))) => (key, table),
            Some((key, other)) => return Err(format!("{key} is {other}; write an object")),
        };
        let number = |name: &str| match table.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
                number.map(Some).ok_or_else(|| format!("{key}.{name} is {value}; write a number above 0"))
            }
        };
        let needed = |name: &str| number(name)?.ok_or_else(|| format!("{key} has no {name}"));
        let theta = match number("rope_theta")? {
            Some(theta) => theta,
            None => match config.get("rope_theta") {
                None | Some(Value::Null) => 10_000.0,
                Some(value) => {
                    let theta = value.as_f64().filter(|theta| theta.is_finite() && *theta > 0.0);
                    theta.ok_or_else(|| format!("rope_theta is {value}; write a number above 0"))?
                }
            },
        };
        for table in [table, config] {
            if let Some(share) = table
                .get("partial_rotary_factor")
                .and_then(Value::as_f64)
                .filter(|&share| (share - 1.0).abs() > 0.0)
            {
                return Err(format!("partial_rotary_factor {share} is not supported; only 1 is"));
            }
        }
        let original = || -> Result<usize, String> {
            let of_config = config.get("original_max_position_embeddings").and_then(Value::as_u64);
            let own = number("original_max_position_embeddings")?.map(|number| number as usize);
            Ok(of_config.map(|length| length as usize).or(own).unwrap_or(max_positions))
        };
        let kind = ["rope_type", "type"].into_iter().find_map(|name| table.get(name)).and_then(Value::as_str);
        let scaling = match kind.unwrap_or("default") {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: needed("factor")? },
            "dynamic" => Scaling::Dynamic { factor: needed("factor")?, original: max_positions },
            "llama3" => Scaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: original()?,
            },
            "yarn" => {
                let original = original()?;
                let factor = number("factor")?.unwrap_or(max_positions as f64 / original as f64);
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let attention =
                    match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
                        (Some(given), ..) => given,
                        (None, Some(scale), Some(all)) => mscale(scale) / mscale(all),
                        _ => mscale(1.0),
                    };
                Scaling::Yarn {
                    factor,
                    original,
                    fast: number("beta_fast")?.unwrap_or(32.0),
                    slow: number("beta_slow")?.unwrap_or(1.0),
                    attention,
                    truncate: table.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                }
            }
            other => {
                return Err(format!(
                    "{key} has the type {other}, which is not supported; only default, linear, dynamic, llama3 and \
                     yarn are"
                ));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// The most tokens of a text that the model was made for.
    pub(super) fn context(&self, max_positions: usize) -> usize {
        let (factor, original) = match self.scaling {
            Scaling::Linear { factor } => (factor, max_positions),
            Scaling::Dynamic { factor, original } | Scaling::Yarn { factor, original, .. } => {
                (factor, original)
            }
            Scaling::Default | Scaling::Llama3 { .. } => return max_positions,
        };
        max_positions.max((factor * original as f64) as usize)
    }

    /// Cosines and sines of the tokens at these positions, each of a text of so many tokens.
    ///
    /// # Shapes
    /// - `tokens`: position and length of the text, `[n]`
    /// - returns two tables `[n, head_dim / 2]`, row by row
    pub(super) fn angles(&self, tokens: &[(usize, usize)], head_dim: usize) -> [Vec<f32>; 2] {
        let scale = if let Scaling::Yarn { attention, .. } = self.scaling { attention as f32 } else { 1.0 };
        let half = head_dim / 2;
        let mut tables = [Vec::with_capacity(tokens.len() * half), Vec::with_capacity(tokens.len() * half)];
        let mut of_length = (0, self.frequencies(head_dim, 0));
        for &(position, length) in tokens {
            if matches!(self.scaling, Scaling::Dynamic { .. }) && of_length.0 != length {
                of_length = (length, self.frequencies(head_dim, length));
            }
            for frequency in &of_length.1 {
                let angle = position as f32 * frequency;
                tables[0].push(angle.cos() * scale);
                tables[1].push(angle.sin() * scale);
            }
        }
        tables
    }

    /// The angle of each pair from a token to the next, in a text of so many tokens.
    fn frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let dim = head_dim as f64;
        let theta = match self.scaling {
            Scaling::Dynamic { factor, original } => {
                let ratio = length.max(original) as f64 / original as f64;
                self.theta * (factor * ratio - (factor - 1.0)).powf(dim / (dim - 2.0))
            }
            _ => self.theta,
        };
        let power = |pair: usize| (theta as f32).powf((2 * pair) as f32 / head_dim as f32);
        let plain = |pair: usize| 1.0 / power(pair);
        let pairs = 0..head_dim / 2;
        match self.scaling {
            Scaling::Default | Scaling::Dynamic { .. } => pairs.map(plain).collect(),
            Scaling::Linear { factor } => pairs.map(|pair| plain(pair) / factor as f32).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
                let scaled = |frequency: f32| {
                    let wavelength = 2.0 * PI / frequency;
                    if wavelength > original / low {
                        frequency / factor
                    } else if wavelength < original / high {
                        frequency
                    } else {
                        let share = (original / wavelength - low) / (high - low);
                        (1.0 - share) * frequency / factor + share * frequency
                    }
                };
                pairs.map(|pair| scaled(plain(pair))).collect()
            }
            Scaling::Yarn { factor, original, fast, slow, truncate, .. } => {
                let pair_of = |rotations: f64| {
                    let turns = original as f64 / (rotations * std::f64::consts::TAU);
                    dim * turns.ln() / (2.0 * self.theta.ln())
                };
                let (mut from, mut to) = (pair_of(fast), pair_of(slow));
                if truncate {
                    (from, to) = (from.floor(), to.ceil());
                }
                (from, to) = (from.max(0.0), to.min(dim - 1.0));
                if from.total_cmp(&to).is_eq() {
                    to += 0.001;
                }
                let ramp = |pair: usize| ((pair as f32 - from as f32) / (to - from) as f32).clamp(0.0, 1.0);
                let scaled = |pair: usize| {
                    let kept = 1.0 - ramp(pair);
                    1.0 / (factor as f32 * power(pair)) * (1.0 - kept) + plain(pair) * kept
                };
                pairs.map(scaled).collect()
            }
        }
    }
}
