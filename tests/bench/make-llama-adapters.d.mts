/** Writes adapters of random values with the shapes of Llama-2-7B below `folder`. */
export function makeAdapters(folder: string, options?: { adapters?: number; rank?: number; layers?: number }): Promise<{ paths: string[]; bytes: number }>
