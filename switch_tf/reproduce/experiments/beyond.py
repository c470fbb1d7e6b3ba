"""Beyond the paper: other routers and losses, in the same form as its tables."""

from switch_tf.reproduce.experiment import Experiment
from switch_tf.reproduce.experiments.mini import EXAMPLES, FOLDER, NLP, SWITCH, T5, switch
from switch_tf.reproduce.verdict import Claim, ahead, alike

Z_LOSS = switch("router z-loss 0.001", {"Router.z_loss_coef": 1e-3})
DROPLESS = switch("dropless", {"Router.dropless": True}, 14.0)
UNBALANCED = switch("no load balancing loss", {"Router.load_balancing_coef": 0.0})
NO_TOKEN_LEFT = switch(
    "No-Token-Left-Behind", {"SwitchLayer.router": "@NoTokenLeftBehindRouter"}, 8.0
)
# A decoder cannot let experts choose among tokens that come later.
EXPERT_CHOICE = switch(
    "expert choice in the encoder, dense decoder",
    {
        "SwitchLayer.router": "@ExpertChoiceRouter",
        "TransformerEncoderDecoder.decoder_sparse_layers": (),
    },
)
ENCODER_ALONE = switch(
    "Switch in the encoder, dense decoder", {"TransformerEncoderDecoder.decoder_sparse_layers": ()}
)
ROUTERS = Experiment(
    name="routers",
    reproduces="Beyond the paper: z-loss, dropless, No-Token-Left-Behind (App. B), expert choice",
    arms=(T5, SWITCH, Z_LOSS, DROPLESS, UNBALANCED, NO_TOKEN_LEFT, ENCODER_ALONE, EXPERT_CHOICE),
    metrics=(NLP, EXAMPLES),
    paper={},
    claims=(
        Claim(
            "No-Token-Left-Behind has no benefit (App. B): within 0.01 nats of Switch",
            "a difference of more",
            alike(NO_TOKEN_LEFT.model, SWITCH.model, NLP, within=0.01),
        ),
        Claim(
            "the router z-loss does not cost quality (ST-MoE): within 0.01 nats of Switch",
            "a difference of more",
            alike(Z_LOSS.model, SWITCH.model, NLP, within=0.01),
        ),
        Claim(
            "dropping tokens at capacity factor 1.25 costs quality: dropless is ahead",
            "dropless behind",
            ahead(DROPLESS.model, SWITCH.model, NLP),
        ),
        Claim(
            "without the load balancing loss a Switch model is behind",
            "ahead without it",
            ahead(SWITCH.model, UNBALANCED.model, NLP),
        ),
        Claim(
            "experts that choose tokens are ahead of tokens that choose experts (Zhou et al., "
            "2022)",
            "tokens that choose ahead",
            ahead(EXPERT_CHOICE.model, ENCODER_ALONE.model, NLP),
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
EXPERIMENTS = (ROUTERS,)
