// What the screen found, in words. Class names and warnings are data: they are shown as text.

const LIMITS = "This does not prove the picture clean. What is looked for is a class that stands out because of a small part of"
  + " the picture: triggers that cover much of it or are faint everywhere, that make the model miss a class, or that this"
  + " network does not answer to are not found, nor are those of attackers who train against such a screen.";

const number = (value) => value.toFixed(2).replace("-", "−");
const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

function reason({ flagged, pixels, box: { top, left, height, width } }, title) {
  if (!pixels) return "No small part of the picture stands out.";
  const place = `${height} × ${width} pixels at row ${top}, column ${left}`;
  return flagged ? `A small part of the picture, framed, seems to make the model report ${title}, as a trigger does: ${place}.`
    : `A trigger would most likely be for ${title}, in the dashed frame: ${place}.`;
}

// Sentences, the verdict first.
export function words(found, title) {
  const [verdict, side] = found.flagged ? ["Suspicious", "above"] : ["Not suspicious", "below"];
  const rate = `set on ${found.images} clean images at a false-positive rate of ${percent(found.rate)}`;
  return [
    `${verdict}: ${number(found.suspicion)} is ${side} the threshold of ${number(found.threshold)}.`,
    reason(found, title),
    `The threshold was ${rate}: about so many clean pictures would be flagged as well.`,
    ...found.warnings, ...found.flagged ? [] : [LIMITS],
  ];
}
