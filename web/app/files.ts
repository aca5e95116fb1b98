// From what the user drops or chooses to adapters: one for each tensor file, with the config beside it.

/** A file with its place in the folder that was given, such as "style/adapter_model.safetensors". */
export interface PlacedFile {
  readonly path: string
  readonly file: File
}

/** The files of one adapter; one of the two may still be missing. */
export interface FileGroup {
  readonly name: string
  readonly tensors?: File
  readonly config?: File
}

/** Files chosen with an input element. */
export function chosenFiles(list: FileList): PlacedFile[] {
  return [...list].map(file => ({ path: file.webkitRelativePath || file.name, file }))
}

/** Files dropped on the page, with all that lies in dropped folders. */
export async function droppedFiles(data: DataTransfer): Promise<PlacedFile[]> {
  // The list is emptied as soon as the event handler returns, so everything is taken from it first.
  const items = [...data.items].filter(item => item.kind === 'file').map(item => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }))
  const placed = items.map(async ({ entry, file }) => {
    if (entry) return filesBelow(entry, '')
    // No entry: the file comes from no folder, for instance from another page.
    return file ? [{ path: file.name, file }] : []
  })
  return (await Promise.all(placed)).flat()
}

async function filesBelow(entry: FileSystemEntry, folder: string): Promise<PlacedFile[]> {
  const path = folder + entry.name
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))
    return [{ path, file }]
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader()
  const found: PlacedFile[] = []
  // Browsers give at most 100 entries at a time.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject))
    if (some.length === 0) return found
    found.push(...(await Promise.all(some.map(child => filesBelow(child, `${path}/`)))).flat())
  }
}

const baseName = (path: string): string => path.slice(path.lastIndexOf('/') + 1)
const folderOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')))

/** One group for each tensor file; a config without one makes a group of its own. */
export function groupFiles(files: readonly PlacedFile[]): FileGroup[] {
  const folders = new Map<string, PlacedFile[]>()
  for (const placed of files) folders.set(folderOf(placed.path), [...(folders.get(folderOf(placed.path)) ?? []), placed])
  return [...folders].flatMap(([folder, inside]) => {
    const config = inside.find(({ path }) => baseName(path) === 'adapter_config.json')?.file
    let tensors = inside.filter(({ path }) => /\.(safetensors|bin|pt|ckpt|gguf)$/.test(path))
    // Training folders hold optimizer states and pickles beside the adapter.
    const proper = tensors.filter(({ path }) => baseName(path) === 'adapter_model.safetensors')
    if (proper.length > 0) tensors = proper
    const groups = tensors.map(({ path, file }): FileGroup => {
      const plain = baseName(path).replace(/\.\w+$/, '')
      const name = plain === 'adapter_model' ? baseName(folder) || plain : plain
      return { name, tensors: file, ...(config && { config }) }
    })
    return groups.length === 0 && config ? [{ name: baseName(folder), config }] : groups
  })
}
