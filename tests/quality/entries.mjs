// What the quality benchmark runs: every method, some of them in several settings, and what the reference
// implementation reached where it has the same method (six adapters, rank 8, token accuracy in %).

const share = 'share'
const variants = [
  { label: 'svd, weights 1/N', recipe: { method: 'svd' }, weights: share, reference: { plain: { own: 37.2, best: 47.1 }, gated: { own: 29.6, best: 77.4 } } },
  { label: 'svd, weights 1', recipe: { method: 'svd' }, reference: { plain: { own: 29.5, best: 47 }, gated: { own: 76.3, best: 76.3 } } },
  { label: 'cat, weights 1/N', recipe: { method: 'cat' }, weights: share, reference: { plain: { own: 38.7, best: 48.2 }, gated: { own: 29.8, best: 81.8 } } },
  { label: 'cat, weights 1', recipe: { method: 'cat' }, reference: { plain: { own: 26.1, best: 48.1 }, gated: { own: 80.1, best: 80.1 } } },
  { label: 'least_interference, first form', recipe: { method: 'least_interference', sharedInputs: 'off', prior: 'mean', covariance: 'unit', eps: 0.1 }, reference: { plain: { own: 50.1 }, gated: { own: 75.4 } } },
  { label: 'least_interference, own inputs only', recipe: { method: 'least_interference', sharedInputs: 'off' } },
  { label: 'least_interference, prior: mean', recipe: { method: 'least_interference', prior: 'mean' } },
  { label: 'least_interference, covariance: unit', recipe: { method: 'least_interference', covariance: 'unit' } },
  { label: 'lego, Euclidean reweighting', recipe: { method: 'lego', parameterReweight: 'l2' } },
  { label: 'lego, balanced gauge', recipe: { method: 'lego', gauge: 'balanced' } },
  { label: 'lego, no reweighting', recipe: { method: 'lego', parameterReweight: 'off', outputReweight: 'off' } },
  { label: 'lego, canonical units', recipe: { method: 'lego', parameterReweight: 'l2', canonical: 'on' } },
  { label: 'lego_delta, product', recipe: { method: 'lego_delta', metric: 'product' } },
  { label: 'lego_delta, product, canonical units', recipe: { method: 'lego_delta', metric: 'product', canonical: 'on' } },
  { label: 'lego_delta, product, mean', recipe: { method: 'lego_delta', metric: 'product', representative: 'mean' } },
  { label: 'lego_delta, product, norm', recipe: { method: 'lego_delta', metric: 'product', representative: 'norm' } },
  { label: 'svd after PICO', recipe: { method: 'svd', pico: 'on' } },
  { label: 'ties after PICO', recipe: { method: 'ties', pico: 'on' } },
  { label: 'ties, density 0.2', recipe: { method: 'ties', density: 0.2 } },
  { label: 'dense_ties, density 0.2', recipe: { method: 'dense_ties', density: 0.2 }, reference: { plain: { own: 44.9, best: 44.9 }, gated: { own: 47.8, best: 68.4 } } },
  { label: 'knots_ties, density 0.2', recipe: { method: 'knots_ties', density: 0.2 }, reference: { plain: { own: 44.8, best: 45.1 }, gated: { own: 46.2, best: 69.1 } } },
]

/** References of methods at their defaults. */
const references = {
  dense_ties: { plain: { own: 45.8, best: 45.8 }, gated: { own: 42.1, best: 72.6 } },
  knots_ties: { plain: { own: 42.7, best: 44.4 }, gated: { own: 38.6, best: 71 } },
  peft_ties: { plain: { own: 36.2, best: 36.2 }, gated: { own: 30.1, best: 35.6 } },
  prune: { plain: { own: 34.8, best: 34.8 }, gated: { own: 38.4, best: 38.2 } },
}

/** Ranks, fixed and from the data, for the methods that the choice matters most to. */
export const rankTrials = ['least_interference', 'svd', 'lego', 'lego_delta'].flatMap(method =>
  [2, 4, 8, 16, 32, 'auto'].map(rank => ({ recipe: { method }, rank })),
)

/** Two adapters for the same task: each with itself, and the plain with the gated one. */
export const sameTaskTrials = ['least_interference', 'svd', 'ties', 'karcher', 'lego'].map(method => ({ recipe: { method } }))

/** Three seeds where chance has a part. */
const isRandom = ({ method }) => /lego|dare|della/.test(method)

/** Every method at its defaults, then the variants. `methods`: the library's table. */
export function entries(methods) {
  const covered = new Set(['svd', 'cat'])
  const plain = methods
    .filter(({ name }) => !covered.has(name))
    .map(({ name }) => ({ label: name, recipe: { method: name }, ...(references[name] && { reference: references[name] }) }))
  return [...plain, ...variants].map(entry => {
    const method = methods.find(({ name }) => name === entry.recipe.method)
    return {
      weights: 'one',
      ...entry,
      takesRank: method.takesRank,
      rankText: method.rank === 'all units' ? 'sum' : '8',
      most: method.mostAdapters,
      seeds: isRandom(entry.recipe) ? [0, 1, 2] : [0],
    }
  })
}
