/** Writes adapters of random values below `folder`, by default with the shapes of Llama-2-7B. */
export function makeAdapters(folder: string, options?: { model?: string; modules?: [string, [number, number]][]; adapters?: number; rank?: number; layers?: number }): Promise<{ paths: string[]; bytes: number }>
