"""Tests that a run of all tests leaves out, unless it is `scripts/test.sh --whole`.

All tests take about an hour of two cores without AVX512. Each of these takes ten seconds to three
minutes, and what it tests is also tested more quickly, on fewer layouts, sizes or tasks, or by
parts. A run of some files, or with -k, leaves nothing out.
"""

from collections.abc import Mapping

# File in tests/ -> names of tests, or of single cases.
SLOW: Mapping[str, tuple[str, ...]] = {
    "checkpoints/test_position.py": (
        "test_the_shares_of_two_hosts_are_saved_each_once_and_one_goes_on_with_them",
    ),
    "commands/test_bench.py": (
        "test_the_float32_parts_of_a_step_are_timed",
        "test_each_row_of_the_float32_parts_has_that_part_in_bfloat16",
    ),
    "data/test_features.py": (
        "test_seed_alone_decides_the_batches[features_mixture-True]",
        "test_restored_iterator_gives_the_next_batches[features_mixture-True]",
        "test_hosts_evaluate_each_example_once_in_as_many_batches[True]",
        "test_evaluations_are_alike_and_shuffled[True-2]",
        "test_evaluations_are_alike_and_shuffled[False-2]",
    ),
    "data/test_shares.py": (
        "test_any_number_of_hosts_comes_to_the_batches_of_one[2-2-shares_mixture-True]",
        "test_any_number_of_hosts_comes_to_the_batches_of_one[4-2-shares_lines-False]",
        "test_a_restored_share_goes_on_bit_for_bit_over_many_passes[40]",
    ),
    "data/test_padding.py": (
        "test_a_second_evaluation_sees_the_same_examples[cached_spans-True-True-1]",
        "test_a_second_evaluation_sees_the_same_examples[cached_spans-True-False-1]",
    ),
    "evaluation/test_run.py": (
        "test_a_second_evaluation_keeps_the_first_and_predictions_are_beside_it",
    ),
    "hosts/test_runs.py": (
        "test_a_signal_to_one_host_stops_all_and_they_save_the_same_step",
        "test_another_layout_of_two_hosts_has_the_losses_of_one",
        "test_four_hosts_with_a_model_dimension_read_their_rows_of_a_cache_as_one_goes_on",
        "test_one_process_goes_on_with_what_two_hosts_saved",
        "test_two_hosts_evaluate_what_one_process_saved_with_its_figures",
    ),
    "layers/test_rematerialize.py": (
        "test_loss_gradients_and_reports_are_those_without_it[experts with data]",
        "test_loss_gradients_and_reports_are_those_without_it[with a model dimension]",
        "test_the_noise_is_the_same_when_made_again[with a model dimension]",
    ),
    "pages/test_reproduce_on_tpu.py": ("test_the_whole_page_is_what_the_planner_says_now",),
    "pages/test_sharding.py": (
        "test_what_lies_where_and_crosses_devices_is_what_the_page_says[data]",
        "test_what_lies_where_and_crosses_devices_is_what_the_page_says[model]",
        "test_what_lies_where_and_crosses_devices_is_what_the_page_says[model_data]",
        "test_what_lies_where_and_crosses_devices_is_what_the_page_says[expert_data]",
    ),
    "planner/test_lowered.py": (
        "test_nothing_is_gathered[data]",
        "test_nothing_is_gathered[model]",
        "test_nothing_is_gathered[model_data]",
        "test_on_gpu_a_bfloat16_model_exchanges_float32_alone",
        "test_a_step_of_micro_batches_is_lowered_as_it_runs",
        "test_switch_attention_sends_queries_apart_from_keys_and_values",
        "test_activations_on_paper_are_so_with_gated_experts_and_one_hot_dispatch",
        "test_blocks_made_again_exchange_on_paper_what_they_do_lowered",
        "test_the_same_crosses_devices_whatever_the_router[Top2Router]",
        "test_the_same_crosses_devices_whatever_the_router[ExpertChoiceRouter]",
    ),
    "planner/test_memory.py": ("test_the_peak_falls_by_what_is_not_kept",),
    "tasks/test_mixtures.py": (
        "test_tokens_are_drawn_as_promised[glue]",
        "test_tokens_are_drawn_as_promised[mc4]",
        "test_tokens_are_drawn_as_promised[pydocs_libraries]",
    ),
    "tasks/test_local_text.py": (
        "test_a_text_in_one_line_is_read_as_the_same_text_in_lines",
        "test_what_is_missing_is_told_in_a_few_words",
    ),
    "tasks/test_own_task.py": (
        "test_a_line_that_cannot_be_parsed_or_is_not_utf_8_is_one_line_before_training[validation]",
        "test_a_run_is_fine_tuned_on_it_in_the_vocabulary_of_that_run",
    ),
    "tasks/test_super_glue.py": (
        "test_a_model_is_fine_tuned_on_all_tasks_and_reports_every_metric",
    ),
    "test_layouts.py": tuple(
        f"test_loss_and_gradients_are_those_of_a_single_device[{case}]"
        for case in (
            "data-top-3, GEGLU, untied, made again",
            "data-no token left behind, switch attention",
            "model-top-3, GEGLU, untied, made again",
            "model-no token left behind, switch attention",
            "model_data-switch, ReLU, tied",
            "model_data-top-3, GEGLU, untied, made again",
            "expert_data-no token left behind, switch attention",
            "expert_data-top-3, GEGLU, untied, made again",
            "model-switch, ReLU, tied",
        )
    ),
    "test_notebook.py": ("test_it_trains_evaluates_and_predicts",),
    "test_setup_script.py": (
        "test_a_signal_ends_it_with_its_status_and_the_next_call_begins_anew[1-killpg-129-pip]",
        "test_a_signal_ends_it_with_its_status_and_the_next_call_begins_anew"
        "[1-killpg-129-during_venv.sh]",
    ),
    "test_stress.py": (
        "test_a_run_that_is_killed_becomes_what_it_would_have_been",
        "test_a_run_that_lost_a_step_is_found",
    ),
    "training/test_bad_steps.py": (
        "test_where_nothing_is_bad_the_steps_are_those_of_another_policy",
        "test_without_a_checkpoint_so_far_back_the_run_stops",
    ),
    "training/test_balance.py": (
        "test_it_is_that_of_one_device_layer_by_layer[model]",
        "test_it_is_that_of_one_device_layer_by_layer[model_data]",
        "test_it_is_that_of_one_device_layer_by_layer[parts on a mesh]",
        "test_it_is_that_of_one_device_layer_by_layer[rematerialised]",
        "test_its_gradient_reaches_the_router[parts on a mesh]",
        "test_its_gradient_reaches_the_router[rematerialised]",
    ),
    "training/test_gradient_precision.py": (
        "test_every_weights_gradient_in_bfloat16_is_float32s[('batch:1', 'batch:batch')]",
    ),
    "training/test_loss_curves.py": (
        "test_a_tiny_model_has_the_loss_curve_that_was_kept[t5_tiny-expert_data]",
        "test_a_tiny_model_has_the_loss_curve_that_was_kept[switch_tiny-one device]",
    ),
    "training/test_microbatches.py": (
        "test_parts_give_the_updates_of_the_whole[experts with data-2-objective3]",
        "test_parts_give_the_updates_of_the_whole[with a model dimension-4-objective5]",
        "test_parts_give_the_updates_of_the_whole[with a model dimension-4-objective6]",
        "test_parts_whose_activations_are_made_again_give_them_too[experts with data-2]",
        "test_parts_whose_activations_are_made_again_give_them_too[one device-8]",
        "test_a_run_with_dropout_made_again_has_the_same_losses",
    ),
    "training/test_step.py": (
        "test_every_mesh_gives_the_loss_curve_of_one_device"
        "[('batch:2', 'batch:batch,experts:batch')]",
        "test_every_mesh_gives_the_loss_curve_of_one_device"
        "[('model:2', 'heads:model,d_ff:model,vocab:model')]",
        "test_every_mesh_gives_the_loss_curve_of_one_device[('batch:2,model:2', "
        "'batch:batch,experts:batch,heads:model,d_ff:model,vocab:model')]",
        "test_every_mesh_gives_the_loss_curve_of_one_device[('batch:2,model:4', "
        "'batch:batch,experts:batch,heads:model,d_ff:model,vocab:model')]",
        "test_memory_stays_flat_over_a_thousand_batches",
    ),
    "training/test_train.py": (
        "test_a_cached_run_resumes_bit_for_bit_from_a_few_numbers",
        "test_a_checkpoint_that_is_named_as_the_best_is_there_at_any_time",
        "test_a_dense_model_starts_from_a_sparse_one_where_it_is_allowed",
        "test_a_fine_tuning_goes_on_with_the_optimizer_where_it_is_asked_to",
        "test_a_fine_tuning_keeps_what_is_frozen_and_resumes_with_it_alone",
        "test_a_host_that_is_not_the_chief_evaluates_without_a_word",
        "test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint",
        "test_an_evaluation_that_fails_costs_no_step[error0]",
        "test_a_packed_run_with_another_optimizer_logs_its_rate_and_resumes_bit_for_bit",
        "test_a_run_can_be_on_a_remote_file_system",
        "test_a_run_keeps_its_best_and_stops_early_where_it_stays_the_best",
        "test_a_run_that_had_ended_without_them_decodes_when_asked",
        "test_a_signal_at_any_time_leaves_a_run_that_goes_on[while a batch is waited for]",
        "test_a_signal_at_any_time_leaves_a_run_that_goes_on[while a save is written]",
        "test_a_signal_at_any_time_leaves_a_run_that_goes_on[while the step is compiled]",
        "test_a_signal_during_an_evaluation_stops_it_and_resumes_there",
        "test_weights_that_a_run_could_not_go_on_from_are_not_saved",
    ),
}


def is_slow(file: str, name: str) -> bool:
    """Whether a test, or a case of it, is left out.

    Args:
      file: its file in tests/.
      name: its name, with the case in brackets.
    """
    return not {name, name.partition("[")[0]}.isdisjoint(SLOW.get(file, ()))
