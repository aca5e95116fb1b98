// From what the user drops or chooses to adapters: a tensor file each, with the config beside it if it uses one.

import { formats } from 'lora-lego'

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
const stemOf = (name: string): string => name.replace(/\.\w+$/, '')
const endingOf = (name: string): string => name.slice(name.lastIndexOf('.'))

/** What tensor files end in, such as ".safetensors". */
export const tensorEndings: readonly string[] = [...new Set(formats.map(({ tensorFile }) => endingOf(tensorFile)))]
/** What people take for adapters too; the library says in clear words why it does not read them. */
const otherEndings = ['.bin', '.pt', '.pth', '.ckpt', '.gguf']
/** What to offer where files are chosen. */
export const chosenEndings: readonly string[] = [...new Set([...tensorEndings, '.json', ...otherEndings])]

const folderFormats = formats.filter(({ configFile }) => configFile !== '')
const isConfig = (name: string): boolean => folderFormats.some(({ configFile }) => configFile === name)
const isTensorFileOfFolder = (name: string): boolean => folderFormats.some(({ tensorFile }) => tensorFile === name)
/** Whether all files of a format have this name, which then says nothing. */
const isCommonName = (name: string): boolean => formats.some(({ tensorFile }) => stemOf(tensorFile) === stemOf(name))
/** Whether the config of the folder may be this file's: also MLX's "0000100_adapters.safetensors", where that is all there is. */
const mayUseConfig = (name: string): boolean => folderFormats.some(({ tensorFile }) => name.endsWith(tensorFile))

/** Files given one by one are all meant; in folders lies much else, such as an optimizer's state. */
function isTensorFile(path: string): boolean {
  const name = baseName(path)
  if (tensorEndings.includes(endingOf(name))) return true
  return otherEndings.includes(endingOf(name)) && (folderOf(path) === '' || stemOf(name) === 'adapter_model')
}

/**
 * One group for each adapter. The library takes a folder for one adapter; here it may also be a shelf with many,
 * each a file. Where the folder has the tensor file that its format prescribes, the others are its checkpoints.
 * A config without a tensor file beside it makes a group of its own.
 */
export function groupFiles(files: readonly PlacedFile[]): FileGroup[] {
  const folders = new Map<string, PlacedFile[]>()
  // Browsers give a folder's files in no certain order.
  for (const placed of [...files].sort((x, y) => x.path.localeCompare(y.path, 'en', { numeric: true }))) {
    // Such as the "._style.safetensors" that macOS leaves on foreign disks.
    if (baseName(placed.path).startsWith('.')) continue
    folders.set(folderOf(placed.path), [...(folders.get(folderOf(placed.path)) ?? []), placed])
  }
  return [...folders].flatMap(([folder, inside]) => {
    const config = inside.find(({ path }) => isConfig(baseName(path)))?.file
    let tensors = inside.filter(({ path }) => isTensorFile(path))
    const proper = tensors.filter(({ path }) => isTensorFileOfFolder(baseName(path)))
    if (folder !== '' && proper.length > 0) tensors = proper
    if (tensors.length === 0) return config ? [{ name: baseName(folder), config }] : []
    return tensors.map(({ path, file }): FileGroup => {
      const name = baseName(path)
      const hasConfig = config && (tensors.length === 1 || mayUseConfig(name))
      return { name: (isCommonName(name) && baseName(folder)) || stemOf(name), tensors: file, ...(hasConfig && { config }) }
    })
  })
}
