//! Every key of a `config.json` that `transformers` knows for the model types that are read here, and how it is treated.
//! The test `settings` compares these tables with `transformers`' own lists.

use super::keys::{Found, Keys, Use, unheeded};
use Use::{Elsewhere, Harmless, Obeyed, Warned};

type Table = &'static [(&'static str, Use)];

/// Keys of all model types.
const SHARED: Table = &[
    ("_attn_implementation", Harmless),
    ("_attn_implementation_autoset", Harmless),
    ("_name_or_path", Harmless),
    ("add_cross_attention", Obeyed),
    ("architectures", Obeyed),
    ("attn_implementation", Harmless),
    ("auto_map", Harmless), // code that is only run where it is trusted
    ("bos_token_id", Obeyed),
    ("chunk_size_feed_forward", Harmless), // the same sums in parts
    ("cross_attention_hidden_size", Harmless),
    ("decoder_start_token_id", Elsewhere), // of decoders with an encoder
    ("dtype", Harmless),                   // the files say how numbers are stored
    ("eos_token_id", Obeyed),
    ("finetuning_task", Harmless),
    ("id2label", Elsewhere), // classifiers
    ("initializer_range", Obeyed),
    ("is_encoder_decoder", Obeyed),
    ("label2id", Elsewhere),
    ("model_type", Obeyed),
    ("num_labels", Elsewhere),
    ("output_attentions", Harmless),
    ("output_hidden_states", Harmless),
    ("pad_token_id", Elsewhere), // classifiers
    ("prefix", Warned(&[])),
    ("problem_type", Elsewhere),
    ("pruned_heads", Obeyed),
    ("quantization_config", Obeyed),
    ("return_dict", Harmless),
    ("sep_token_id", Harmless),
    ("task_specific_params", Harmless), // of transformers' pipelines
    ("tf_legacy_loss", Harmless),
    ("tie_encoder_decoder", Harmless),
    ("tie_word_embeddings", Obeyed),
    ("tokenizer_class", Harmless),
    ("torch_dtype", Harmless),
    ("torchscript", Harmless),
    ("transformers_version", Harmless),
    ("use_bfloat16", Harmless),
    ("use_cache", Harmless),
    ("vocab_size", Obeyed),
];

/// Keys of generation that older versions kept here: `GenerationConfig` reads them where there is no `generation_config.json`.
const GENERATION: Table = &[
    ("bad_words_ids", Elsewhere),
    ("begin_suppress_tokens", Elsewhere),
    ("diversity_penalty", Elsewhere),
    ("do_sample", Elsewhere),
    ("early_stopping", Elsewhere),
    ("encoder_no_repeat_ngram_size", Elsewhere),
    ("exponential_decay_length_penalty", Elsewhere),
    ("forced_bos_token_id", Elsewhere),
    ("forced_eos_token_id", Elsewhere),
    ("length_penalty", Elsewhere),
    ("max_length", Elsewhere),
    ("min_length", Elsewhere),
    ("no_repeat_ngram_size", Elsewhere),
    ("num_beam_groups", Elsewhere),
    ("num_beams", Elsewhere),
    ("num_return_sequences", Elsewhere),
    ("output_scores", Harmless),
    ("remove_invalid_values", Elsewhere),
    ("repetition_penalty", Elsewhere),
    ("return_dict_in_generate", Harmless),
    ("suppress_tokens", Elsewhere),
    ("temperature", Elsewhere),
    ("top_k", Elsewhere),
    ("top_p", Elsewhere),
    ("typical_p", Elsewhere),
];

/// Keys of GPT and GPT-2, among them those that all models share, which mean the same where the usual ones are missing.
const GPT: Table = &[
    ("attn_pdrop", Obeyed),
    ("embd_pdrop", Obeyed),
    ("hidden_size", Elsewhere),
    ("is_decoder", Harmless), // attention is causal whatever it says
    ("layer_norm_epsilon", Obeyed),
    ("max_position_embeddings", Elsewhere),
    ("n_ctx", Harmless), // the old name of n_positions, which means nothing beside it
    ("n_embd", Obeyed),
    ("n_head", Obeyed),
    ("n_layer", Obeyed),
    ("n_positions", Obeyed),
    ("num_attention_heads", Elsewhere),
    ("num_hidden_layers", Elsewhere),
    ("resid_pdrop", Obeyed),
    // Of the second head of a GPT2DoubleHeadsModel.
    ("summary_activation", Harmless),
    ("summary_first_dropout", Harmless),
    ("summary_proj_to_labels", Harmless),
    ("summary_type", Harmless),
    ("summary_use_proj", Harmless),
];

const OF_GPT: Table = &[("afn", Obeyed), ("n_special", Harmless), ("predict_special_tokens", Harmless)];

const OF_GPT2: Table = &[
    ("ablation", Obeyed),
    ("activation_function", Obeyed),
    ("gradient_checkpointing", Harmless),
    ("n_inner", Obeyed),
    ("reorder_and_upcast_attn", Harmless), // everything is f32 here
    ("scale_attn_by_inverse_layer_idx", Obeyed),
    ("scale_attn_weights", Obeyed),
];

/// Keys of LLaMA and of all that is like it.
const LLAMA: Table = &[
    ("attention_bias", Obeyed),
    ("attention_dropout", Obeyed),
    ("head_dim", Obeyed),
    ("hidden_act", Obeyed),
    ("hidden_size", Obeyed),
    ("intermediate_size", Obeyed),
    ("is_decoder", Harmless), // as above
    ("max_position_embeddings", Obeyed),
    ("mlp_bias", Obeyed),
    ("num_attention_heads", Obeyed),
    ("num_hidden_layers", Obeyed),
    ("num_key_value_heads", Obeyed),
    ("partial_rotary_factor", Obeyed),
    ("pretraining_tp", Harmless), // the same sums in parts
    ("rms_norm_eps", Obeyed),
    ("rope_parameters", Obeyed),
    ("rope_scaling", Elsewhere), // where there are no rope_parameters
    ("rope_theta", Elsewhere),
];

const OF_LLAMA: Table = &[("sliding_window", Harmless)]; // transformers does not look at it
const OF_MISTRAL: Table = &[("sliding_window", Obeyed)];
const OF_MIXTRAL: Table = &[
    ("num_experts_per_tok", Obeyed),
    ("num_local_experts", Obeyed),
    ("output_router_logits", Harmless), // routers are always balanced in training here
    ("router_aux_loss_coef", Obeyed),
    ("router_jitter_noise", Obeyed),
    ("router_z_loss_coef", Obeyed),
    ("sliding_window", Obeyed),
];
/// Of a LLaMA of this program's own, some layers of which have a window; with experts, too.
const OF_WGPT_LLAMA: Table = &[
    ("layer_types", Obeyed),
    ("num_experts_per_tok", Obeyed),
    ("num_local_experts", Obeyed),
    ("router_aux_loss_coef", Obeyed),
    ("router_z_loss_coef", Obeyed),
    ("sliding_window", Obeyed),
];
const OF_QWEN: Table = &[
    ("layer_types", Obeyed),
    ("max_window_layers", Elsewhere), // where there are no layer_types
    ("sliding_window", Elsewhere),
    ("use_sliding_window", Elsewhere),
];

const GPT_NEO: Table = &[
    ("activation_function", Obeyed),
    ("attention_dropout", Obeyed),
    ("attention_layers", Elsewhere), // where there are no attention_types
    ("attention_types", Obeyed),
    ("classifier_dropout", Harmless), // training here has a dropout of its own
    ("embed_dropout", Obeyed),
    ("gradient_checkpointing", Harmless),
    ("hidden_size", Obeyed),
    ("intermediate_size", Obeyed),
    ("is_decoder", Harmless), // attention is causal whatever it says
    ("layer_norm_epsilon", Obeyed),
    ("max_position_embeddings", Obeyed),
    ("num_heads", Obeyed),
    ("num_layers", Obeyed),
    ("resid_dropout", Obeyed),
    ("summary_activation", Harmless), // of another head
    ("summary_first_dropout", Harmless),
    ("summary_proj_to_labels", Harmless),
    ("summary_type", Harmless),
    ("summary_use_proj", Harmless),
];
const OF_GPT_NEO: Table = &[("window_size", Obeyed)];

/// Keys of Transformer-XL.
const TRANSFO_XL: Table = &[
    ("adaptive", Harmless), // there are no cutoffs
    ("attn_type", Obeyed),
    ("clamp_len", Obeyed),
    ("cutoffs", Obeyed),
    ("d_embed", Obeyed),
    ("d_head", Obeyed),
    ("d_inner", Obeyed),
    ("d_model", Obeyed),
    ("div_val", Obeyed),
    ("dropatt", Obeyed),
    ("dropout", Obeyed),
    ("init", Harmless), // of new models
    ("init_range", Harmless),
    ("init_std", Obeyed),
    ("is_decoder", Harmless), // attention is causal whatever it says
    ("layer_norm_epsilon", Obeyed),
    ("max_position_embeddings", Harmless), // there are none
    ("mem_len", Obeyed),
    ("n_head", Obeyed),
    ("n_layer", Obeyed),
    ("pre_lnorm", Obeyed),
    ("proj_init_std", Harmless),
    ("proj_share_all_but_first", Harmless), // there are no projections
    ("same_length", Obeyed),
    ("sample_softmax", Obeyed),
    ("tie_projs", Harmless), // as above
    ("untie_r", Obeyed),
];
/// Of this program's own and of old versions: the tokens of a segment.
const OF_TRANSFO_XL: Table = &[("tgt_len", Obeyed)];

/// Keys of encoders.
const BERT: Table = &[("is_decoder", Obeyed), ("max_position_embeddings", Obeyed)];
const OF_BERT: Table = &[
    ("attention_probs_dropout_prob", Obeyed),
    ("classifier_dropout", Harmless), // training here has a dropout of its own
    ("gradient_checkpointing", Harmless),
    ("hidden_act", Obeyed),
    ("hidden_dropout_prob", Obeyed),
    ("hidden_size", Obeyed),
    ("intermediate_size", Obeyed),
    ("layer_norm_eps", Obeyed),
    ("num_attention_heads", Obeyed),
    ("num_hidden_layers", Obeyed),
    ("position_embedding_type", Obeyed),
    ("type_vocab_size", Obeyed),
];
const OF_DISTILBERT: Table = &[
    ("activation", Obeyed),
    ("attention_dropout", Obeyed),
    ("dim", Obeyed),
    ("dropout", Obeyed),
    ("hidden_dim", Obeyed),
    ("n_heads", Obeyed),
    ("n_layers", Obeyed),
    ("qa_dropout", Harmless), // training here has a dropout of its own
    ("seq_classif_dropout", Harmless),
    ("sinusoidal_pos_embds", Obeyed),
];

const T5: Table = &[
    ("classifier_dropout", Harmless), // of another head
    ("d_ff", Obeyed),
    ("d_kv", Obeyed),
    ("d_model", Obeyed),
    ("dense_act_fn", Harmless), // both follow from feed_forward_proj
    ("is_gated_act", Harmless),
    ("dropout_rate", Obeyed),
    ("feed_forward_proj", Obeyed),
    ("initializer_factor", Obeyed),
    ("is_decoder", Obeyed),
    ("layer_norm_epsilon", Obeyed),
    ("n_positions", Obeyed),
    ("num_decoder_layers", Obeyed),
    ("num_heads", Obeyed),
    ("num_layers", Obeyed),
    ("output_past", Harmless), // an old name of use_cache
];
const OF_T5: Table = &[
    ("relative_attention_max_distance", Obeyed),
    ("relative_attention_num_buckets", Obeyed),
    ("scale_decoder_outputs", Obeyed),
];

/// How each key of a `config.json` of a model type is treated.
pub fn tables(model_type: &str) -> [Table; 4] {
    let (family, own) = match model_type {
        "bert" | "roberta" => (BERT, OF_BERT),
        "distilbert" => (BERT, OF_DISTILBERT),
        "gpt_neo" => (GPT_NEO, OF_GPT_NEO),
        "t5" => (T5, OF_T5),
        "transfo-xl" => (TRANSFO_XL, OF_TRANSFO_XL),
        "openai-gpt" => (GPT, OF_GPT),
        "llama" => (LLAMA, OF_LLAMA),
        "mistral" => (LLAMA, OF_MISTRAL),
        "mixtral" => (LLAMA, OF_MIXTRAL),
        "wgpt-llama" => (LLAMA, OF_WGPT_LLAMA),
        "qwen2" | "qwen3" => (LLAMA, OF_QWEN),
        _ => (GPT, OF_GPT2),
    };
    [SHARED, GENERATION, family, own]
}

/// The keys of a `config.json` that have no effect: they ask for features that are not implemented, or are unknown here.
pub fn unheeded_of(text: &str) -> Found<Vec<String>> {
    let keys = Keys::parse(text, "config.json")?;
    let model_type = keys.get("model_type").and_then(|name| name.as_str()).unwrap_or("gpt2").to_string();
    Ok(unheeded(&keys, &tables(&model_type)))
}
