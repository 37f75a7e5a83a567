//! Merging changes of biases, which no method of the registry makes.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice};
use sara_core::{Adapter, Backbone, Change, Delta, Error, LayerOps, Pass, Result, Role, Site};

use crate::tiny::values;

const SITE: Site = Site { layer: 0, role: Role::Query };

/// One layer of two inputs and three outputs.
#[derive(Module, Debug)]
struct Layer<B: Backend> {
    linear: Linear<B>,
}

impl<B: Backend> Backbone<B> for Layer<B> {
    fn linears(&self) -> Vec<(Site, &Linear<B>)> {
        vec![(SITE, &self.linear)]
    }

    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)> {
        vec![(SITE, &mut self.linear)]
    }
}

/// A change of the bias, and none of the weight.
#[derive(Module, Debug)]
struct Shift<B: Backend> {
    by: Param<Tensor<B, 1>>,
}

impl<B: LayerOps> Adapter<B> for Shift<B> {
    fn project(&self, _site: Site, base: &Linear<B>, x: Tensor<B, 3>, _pass: &Pass<B>) -> Tensor<B, 3> {
        sara_core::low_rank::linear(base, x) + self.by.val().unsqueeze()
    }

    fn delta(&self, _site: Site, base: &Linear<B>) -> Result<Option<Delta<B>>> {
        let weight = Change::Dense(base.weight.val().cast(DType::F32).zeros_like());
        Ok(Some(Delta { weight, bias: Some(self.by.val()) }))
    }
}

fn layer(bias: Option<[f32; 3]>, dtype: DType) -> Layer<Flex> {
    let tensor = |values: [[f32; 3]; 2]| Tensor::<Flex, 2>::from_data(values, &FlexDevice).cast(dtype);
    let bias = bias.map(|bias| Tensor::<Flex, 1>::from_data(bias, &FlexDevice).cast(dtype));
    let weight = Param::from_tensor(tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
    Layer { linear: Linear { weight, bias: bias.map(Param::from_tensor) } }
}

fn shift(by: [f32; 3]) -> Shift<Flex> {
    Shift { by: Param::from_tensor(Tensor::from_data(by, &FlexDevice)) }
}

#[test]
fn a_change_of_the_bias_alone_is_merged() {
    let (merged, norms) = layer(Some([1.0, 0.0, -1.0]), DType::F32).merge(&shift([0.5, 0.0, 2.0])).unwrap();
    assert_eq!(norms, [(SITE, 0.0)]);
    assert_eq!(values(merged.linear.bias.unwrap().val()), [1.5, 0.0, 1.0]);
    assert_eq!(values(merged.linear.weight.val()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let nothing = layer(Some([1.0; 3]), DType::F32).merge(&shift([0.0; 3]));
    assert!(matches!(nothing, Err(Error::NothingToMerge)));
}

#[test]
fn a_merged_bias_keeps_its_dtype() {
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let (merged, _) = layer(Some([1.0, 0.0, -1.0]), dtype).merge(&shift([0.5, 0.25, 2.0])).unwrap();
        let bias = merged.linear.bias.unwrap().val();
        assert_eq!(bias.dtype(), dtype);
        assert_eq!(values(bias), [1.5, 0.25, 1.0]);
    }
}

#[test]
fn a_bias_that_is_not_there_is_named() {
    let error = layer(None, DType::F32).merge(&shift([1.0; 3])).unwrap_err();
    assert!(matches!(error, Error::NoBias { site: SITE }));
    assert!(error.to_string().contains("changes the bias of 0-query, and that layer has none"), "{error}");
}
