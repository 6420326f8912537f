"""What figures are called for people: in words, with their unit, and which way is better."""

UP, DOWN = " ↑", " ↓"
WORDS = {
    "psnr": "signal over error of reconstructions, dB" + UP,
    "ssim": "structural similarity of reconstructions, at most 1" + UP,
    "ms_ssim": "the same over several scales, at most 1" + UP,
    "lpips": "perceptual distance of reconstructions (VGG16)" + DOWN,
    "lpips_alex": "perceptual distance of reconstructions (AlexNet)" + DOWN,
    "stlpips": "perceptual distance of reconstructions (ST-LPIPS)" + DOWN,
    "perceptual": "perceptual distance that is trained on" + DOWN,
    "l1": "absolute error of reconstructions, of a range of 2" + DOWN,
    "mse": "squared error of reconstructions, of a range of 2" + DOWN,
    "bits_per_dim": "upper bound, bits for each number of a picture" + DOWN,
    "accuracy": "pixels that keep their label" + UP,
    "labels_accuracy": "pixels that keep their label" + UP,
    "labels_mean_iou": "overlap of labels before and after, mean over labels" + UP,
    "used": "share of the codes that occur" + UP,
    "perplexity": "codes that would carry as much if used evenly" + UP,
    "dead": "codes that never occur" + DOWN,
    "position_entropy": "entropy of the codes at one place, nats",
    "neighbour_distance": "distance of a code to the nearest other",
    "quantizer": "the quantizer's part of the loss" + DOWN,
    "nll": "surprise of the prior, nats per code" + DOWN,
    "nll_train": "the same on training pictures, nats per code" + DOWN,
    "nll_without_condition": "the same without the condition, nats per code",
    "nll_other_condition": "the same with another picture's condition, nats per code",
    "bits": "surprise of the prior, bits per code" + DOWN,
    "code_bits_per_dim": "bits of the codes for each number of a picture" + DOWN,
    "unigram": "what a table of the codes' frequencies would pay, nats per code",
    "position_unigram": "what a table for each place would pay, nats per code",
    "log_codes": "what knowing nothing would pay, nats per code",
    "fid": "distance of samples to pictures (FID)" + DOWN,
    "fd": "distance of samples to pictures (Frechet, other features than FID's)" + DOWN,
    "fd_infinity": "the same, continued to infinitely many pictures" + DOWN,
    "rfid": "distance of reconstructions to pictures (FID)" + DOWN,
    "rfd": "distance of reconstructions to pictures (Frechet)" + DOWN,
    "kid": "distance of samples to pictures (KID)" + DOWN,
    "kd": "distance of samples to pictures (kernel, other features than KID's)" + DOWN,
    "inception_score": "how sure and how varied Inception finds samples" + UP,
    "classifier_score": "how sure and how varied a classifier finds samples" + UP,
    "precision": "samples that lie among pictures" + UP,
    "recall": "pictures that lie among samples" + UP,
    "density": "how densely samples lie among pictures, 1 for pictures themselves" + UP,
    "coverage": "pictures that have a sample nearby" + UP,
    "copying": "samples nearer to training pictures than new ones are; 0.5: as nature, 1: copies",
    "correlation_y": "correlation of brightness with the picture's" + UP,
    "correlation_cb": "correlation of blue against yellow with the picture's" + UP,
    "correlation_cr": "correlation of red against green with the picture's" + UP,
    "error_y": "error of brightness, grey levels of 255" + DOWN,
    "error_cb": "error of blue against yellow, grey levels of 255" + DOWN,
    "error_cr": "error of red against green, grey levels of 255" + DOWN,
    "hue": "clearly coloured pixels that keep their hue" + UP,
    "hue_red": "clearly red pixels that stay red" + UP,
    "hue_green": "clearly green pixels that stay green" + UP,
    "border_error": "error of the outermost pixels, grey levels of 255" + DOWN,
    "corner_error": "error of the four corners, grey levels of 255" + DOWN,
    "inside_error": "error of all other pixels, grey levels of 255" + DOWN,
    "grid_error": "how much the grid of codes shows" + DOWN,
    "layout_iou": "overlap of the layout with the one found in the sample" + UP,
    "layout_accuracy": "pixels that follow the layout" + UP,
}
PLACES = {
    "real": "of held-out pictures in the samples' place",
    "reconstructed": "of reconstructions in the samples' place",
    "perturbed": "of reconstructions from codes of which a tenth is replaced by near ones",
    "floor": "with another picture's layout",
}


def label(name: str) -> str:
    """`psnr` -> `psnr: signal over error of reconstructions, dB ↑`; a name without words of its
    own stays as it is.
    """
    plain, of_label = name.removeprefix("validation/"), ""
    for figure in ("iou", "accuracy"):  # layout_iou_water, layout_real_iou_water
        before, middle, after = plain.partition(f"_{figure}_")
        if middle and before.startswith("layout"):
            plain, of_label = f"{before}_{figure}", f", of {after.replace('_', ' ')} alone"
    words = WORDS.get(plain)
    for place, addition in PLACES.items():
        parts = plain.split("_")
        if words is None and place in parts:
            base = WORDS.get("_".join(part for part in parts if part != place))
            words = base and f"{base.removesuffix(UP).removesuffix(DOWN)}, {addition}"
    if words is None and plain.rpartition("_")[2].isdecimal():  # of a level
        base, _, level = plain.rpartition("_")
        words = WORDS.get(base) and f"{WORDS[base]} (level {level})"
    if words and of_label:
        arrow = words[-len(UP) :] if words.endswith((UP, DOWN)) else ""
        words = words.removesuffix(arrow) + of_label + arrow
    return f"{name}: {words}" if words else name
